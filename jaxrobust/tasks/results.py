"""The rows of a run: computed once, kept in results.json, averaged over seeds,
printed."""

import logging
from collections.abc import Callable
from typing import Any

from jaxrobust.metrics import CLAIM_SEEDS, half_interval, mean_and_std
from jaxrobust.workdir import Workdir

logger = logging.getLogger(__name__)
Row = dict[str, Any]

COLUMNS = {
    "clean_acc": "clean",
    "pgd_acc": "PGD",
    "cw_acc": "CW",
    "aa_acc": "suite",
    "steps": "steps",
    "train_seconds": "train s",
}


class Results:
    """Rows by (name, seed). A row that an interrupted run had finished is not
    redone."""

    def __init__(self, workdir: Workdir, title: str, question: str, **head: Any):
        self._workdir = workdir
        self._head = {"title": title, "question": question, **head}
        self.runs: list[Row] = workdir.read_results().get("runs", [])

    def find(self, name: str, seed: int) -> Row | None:
        """The finished row, if there is one."""
        for row in self.runs:
            if (row["name"], row["seed"]) == (name, seed):
                return row
        return None

    def row(self, name: str, seed: int, compute: Callable[[], Row]) -> Row:
        """The row of (name, seed): the finished one, else computed and kept."""
        known = self.find(name, seed)
        if known is None:
            known = {"name": name, "seed": seed, **compute()}
            self.runs.append(known)
            self._save("")
            accuracies = [
                f"{k[:-4]} {v:.1%}" for k, v in known.items() if k.endswith("_acc")
            ]
            logger.info("%s, seed %d: %s", name, seed, ", ".join(accuracies))
        return known

    def finish(self, answer: str) -> list[Row]:
        """Write the final table and return its rows."""
        self._save(answer)
        return self.mean_rows()

    def mean_rows(self) -> list[Row]:
        """One row for each name: means over seeds, and `<column>_std` where seeds are
        several."""
        names = list(dict.fromkeys(row["name"] for row in self.runs))
        return [_average([r for r in self.runs if r["name"] == name]) for name in names]

    def values(self, name: str, column: str) -> list[float]:
        """One number for each seed, in the order of seeds."""
        rows = sorted(
            (r for r in self.runs if r["name"] == name), key=lambda r: r["seed"]
        )
        return [row[column] for row in rows]

    def _save(self, answer: str) -> None:
        table = {"answer": answer, "rows": self.mean_rows(), "runs": self.runs}
        self._workdir.write("results.json", {**self._head, **table})


def _average(rows: list[Row]) -> Row:
    mean: Row = {"name": rows[0]["name"], "seeds": sorted(r["seed"] for r in rows)}
    for key, value in rows[0].items():
        if key in ("name", "seed"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            mean[key] = value
            continue
        values = [float(r[key]) for r in rows]
        average, spread = mean_and_std(values)
        mean[key] = int(value) if isinstance(value, int) else average
        if key.endswith("_acc") and len(rows) > 1:
            mean[f"{key}_std"] = spread
            reach = half_interval(values)
            mean[f"{key}_interval"] = [max(average - reach, 0), min(average + reach, 1)]
    return mean


def format_table(rows: list[Row]) -> str:
    """The rows as aligned text, accuracies in percent with their spread over seeds."""
    shown = [key for key in COLUMNS if any(key in row for row in rows)]
    lines = [["", *(COLUMNS[key] for key in shown)]]
    lines += [[row["name"], *(_cell(row, key) for key in shown)] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = [c.rjust(w) for c, w in zip(line[1:], widths[1:])]
        text.append("  ".join([line[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(text)


def gaps(results: Results, first: str, second: str, column: str) -> list[float]:
    """first - second, one number for each seed: both were trained from the same
    initialisation."""
    pairs = zip(results.values(first, column), results.values(second, column))
    return [a - b for a, b in pairs]


def difference(
    results: Results, first: str, second: str, column: str
) -> tuple[float, float, int]:
    """Mean over seeds of first - second, its standard error, and the number of
    seeds."""
    found = gaps(results, first, second, column)
    mean, spread = mean_and_std(found)
    return mean, spread / len(found) ** 0.5, len(found)


def verdict(results: Results, first: str, second: str, column: str) -> str:
    """The comparison in words; "higher" or "lower" only where the 95% interval of
    Student's t over seeds leaves zero out."""
    gap, error, seeds = difference(results, first, second, column)
    sign = f"{100 * gap:+.1f} points"
    if seeds < CLAIM_SEEDS:
        return f"{sign} from {seeds} seed{'s' * (seeds > 1)}, too few to claim anything"
    sign += f" (standard error {100 * error:.1f}, {seeds} seeds)"
    if abs(gap) <= half_interval(gaps(results, first, second, column)):
        return f"{sign}, not distinguishable from chance at 95%"
    return f"{sign}, {'higher' if gap > 0 else 'lower'}"


def _cell(row: Row, key: str) -> str:
    if key not in row:
        return ""
    value = row[key]
    if key.endswith("_acc"):
        spread = row.get(f"{key}_std")
        return f"{value:.1%}" + (f" +-{100 * spread:.1f}" if spread is not None else "")
    return f"{value:.0f}" if key == "steps" else f"{value:.1f}"
