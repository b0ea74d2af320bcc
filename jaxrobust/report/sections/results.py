"""The headline table: every method and baseline, averaged over its seeds."""

import math

from jaxrobust.metrics import CLAIM_SEEDS
from jaxrobust.report.comparison import by_rule, is_comparison, short_name
from jaxrobust.report.numbers import (
    cell,
    is_accuracy,
    is_fraction,
    is_number,
    label,
    quantities,
    seed_count,
    suite_names,
)
from jaxrobust.report.page import Block, Cell, Fold, Section, Table, Text
from jaxrobust.report.run import Row, Run


def results(run: Run) -> Section | None:
    """The table of rows, with one table of single seeds folded under it."""
    if not run.rows:
        return None
    blocks: list[Block] = []
    for rule, rows in by_rule(run.rows).items():
        blocks += [Text(f"{rule.capitalize()}:")] if rule else []
        blocks.append(_headline(rows))
    if any(seed_count(row) > 1 for row in run.rows) and run.runs:
        blocks.append(Fold("Every single seed", (_single_seeds(run.runs),)))
    return Section("Results", tuple(blocks))


def _headline(rows: list[Row]) -> Table:
    shared = _shared(rows)
    keys = [key for key in quantities(rows) if key not in shared]
    best = {key: best_row(rows, key) for key in keys if is_accuracy(key)}
    body = tuple(
        (_name(row), *(cell(row, key, best.get(key) == i) for key in keys))
        for i, row in enumerate(rows)
    )
    header = (_who(rows), *(_title(key, rows) for key in keys))
    marked = any(i is not None for i in best.values())
    same = ", ".join(
        f"{_inside(_title(key, rows))} {text}" for key, text in shared.items()
    )
    note = _note(rows, marked) + (f" The same in every row: {same}." if same else "")
    return Table(header, body, note=note)


def _shared(rows: list[Row]) -> dict[str, str]:
    """What no row differs in, printed: it needs a sentence and not a column.

    One row differs from none; only where attacks need the columns is that used.
    """
    enough = len(rows) > 1 or suite_names(rows)
    printed = {
        key: {cell(row, key).text for row in rows}
        for key in quantities(rows)
        if not is_accuracy(key) and enough
    }
    return {key: min(texts) for key, texts in printed.items() if len(texts) == 1}


def _single_seeds(runs: list[Row]) -> Table:
    keys = quantities(runs)
    body = tuple(
        (
            Cell(str(row.get("name", ""))),
            Cell(str(row.get("seed", "–"))),
            *(cell(row, key) for key in keys),
        )
        for row in runs
    )
    titles = (_title(key, runs) for key in keys)
    return Table((_who(runs), "Seed", *titles), body)


def best_row(rows: list[Row], key: str) -> int | None:
    """The row that leads in `key` by more than one standard deviation, if any does.

    The deviation is the larger one of the leader and the next, each over at least
    three seeds; anything less would present noise as a result.
    """
    order = [i for i, row in enumerate(rows) if math.isfinite(_value(row, key))]
    order.sort(key=lambda i: -rows[i][key])
    if len(order) < 2:
        return None
    first, second = rows[order[0]], rows[order[1]]
    stds = [row.get(f"{key}_std") for row in (first, second)]
    if min(seed_count(first), seed_count(second)) < CLAIM_SEEDS or None in stds:
        return None
    lead = first[key] - second[key]
    return order[0] if lead > max(float(std or 0) for std in stds) else None


def _value(row: Row, key: str) -> float:
    value = row.get(key)
    return float(value) if is_number(value) else math.nan


def _note(rows: list[Row], marked: bool) -> str:
    counts = sorted({seed_count(row) for row in rows})
    parts = []
    if counts == [1]:
        parts.append("One seed a row: the differences may be noise.")
    else:
        low, high = counts[0], counts[-1]
        seeds = f"{low}" if low == high else f"{low} to {high}"
        parts.append(f"Mean ± standard deviation over {seeds} seeds.")
    rule = (
        "leads the next one by more than the larger of their two standard "
        f"deviations ({CLAIM_SEEDS} seeds or more)"
    )
    if marked:
        parts.append(f"Bold: the best accuracy of a column, only where it {rule}.")
    elif counts != [1]:
        parts.append(f"Nothing is bold: no best accuracy {rule}.")
    suites = "; ".join(suite_names(rows))
    if suites:
        parts.append(f"Suite of attacks: {suites}.")
    return " ".join(parts)


def _name(row: Row) -> Cell:
    return Cell(short_name(row), tag="baseline" if row.get("baseline") else "")


def _inside(title: str) -> str:
    """A title inside of a sentence; a unit keeps its capitals."""
    return title[:1].lower() + title[1:]


def _who(rows: list[Row]) -> str:
    return "Choice / budget" if is_comparison(rows) else "Objective / data"


def _title(key: str, rows: list[Row]) -> str:
    title = label(key, rows)
    return f"{title} (%)" if is_fraction(key) else title
