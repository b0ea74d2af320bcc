"""Distilled sets: how they look, what networks learn from them and from as many real
images, what was distilled and what only labelled well."""

import itertools
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from jaxrobust.report import style
from jaxrobust.report.numbers import is_number, label, quantity, radius
from jaxrobust.report.page import Block, Cell, Picture, Pictures, Section, Table, Text
from jaxrobust.report.run import Row, Run

_MOST = 24


def distilled_sets(run: Run) -> Section | None:
    """Pictures, one table for each number of images per class and each architecture
    that learns them, and scores."""
    if not any("set_bytes" in row for row in run.rows):
        return None
    blocks: list[Block] = []
    sheets = tuple(_sheet(path) for path in _shown(run.distilled))
    if sheets:
        caption = "The first image of each class of the first set of every method."
        blocks.append(Pictures(sheets, caption))
    sizes = sorted({row["ipc"] for row in run.rows if "ipc" in row})
    whole = [row for row in run.rows if "ipc" not in row]
    blocks += [_table(run, "All images", whole)]
    networks = dict.fromkeys(str(row.get("architecture", "")) for row in run.rows)
    for ipc, network in itertools.product(sizes, networks):
        own = lambda row: (row.get("ipc"), row.get("architecture", ""))
        rows = [row for row in run.rows if own(row) == (ipc, network)]
        title = f"{ipc} per class" + (f", {network}" if network else "")
        blocks += [_table(run, title, rows)] if rows else []
    blocks.append(Text(_COLUMNS))
    scores = run.scores
    if scores:
        blocks += [Text(_SCORES), _scores(scores)]
    return Section("Distilled images", tuple(blocks))


_COLUMNS = (
    "Worst: right under every attack; mean ± standard deviation over seeds. Labels: "
    "hard, or what a network that learnt all images by that method says. Where a name "
    "follows the number per class, networks of that architecture learnt the images; "
    "soft labels still come from the run's own. A suite of attacks, if one was run: at "
    "the first radius, on a part of the test images. Top "
    "eigenvalue: of the Hessian of the loss with respect to the image, mean over test "
    "images. KiB: pixels, and labels or the weights of the network that says them."
)
_SCORES = (
    "What the images are worth, in points of clean accuracy and in the worst case over "
    "attacks. Over random: the accuracy less that of as many random real images with "
    "the same labels. Hard gap: what networks that learn from the images with hard "
    "labels lack against all images. Label-robust score: both in one number "
    "(DD-Ranking), 0.27 where both are 0, more is better."
)


def _shown(paths: list[Path]) -> list[Path]:
    """The first set of every method, at its most images per class."""
    best: dict[str, tuple[int, Path]] = {}
    for path in paths:
        method, _, rest = path.stem.rpartition("-ipc")
        ipc, _, number = rest.partition("-set")
        if number == "0" and int(ipc) > best.get(method, (0, path))[0]:
            best[method] = int(ipc), path
    return [path for _, path in best.values()]


def _sheet(path: Path) -> Picture:
    with np.load(path, allow_pickle=False) as file:
        data = {key: file[key] for key in ("image", "label", "class_names")}
    own = data["label"]
    firsts = [int((own == k).argmax()) for k in sorted(set(own.tolist()))][:_MOST]
    names = [style.shorten(str(data["class_names"][own[i]]), 11) for i in firsts]
    method = path.stem.removesuffix("-set0").replace("-ipc", ", ipc ")
    figure = style.tile_sheet(method, data["image"][firsts], names)
    alt = f"{method}: {len(firsts)} images"
    return Picture(f"distilled-{path.stem}", figure, alt, photo=True)


def _table(run: Run, title: str, rows: list[Row]) -> Table:
    eps = [point[0] for point in rows[0]["worst_curve"]][1:] if rows else []
    seeds = run.runs_by_name
    norm = str((run.config.get("threat") or {}).get("norm", ""))
    suite = [label("aa_acc", rows)] if any("aa_acc" in row for row in rows) else []
    body = tuple(
        (
            Cell(_short(row), tag="baseline" if row.get("baseline") else ""),
            Cell(str(row.get("labels", "hard"))),
            _spread([100 * r["clean_acc"] for r in seeds[row["name"]]], "{:.1f}"),
            *(_at(seeds[row["name"]], i + 1) for i in range(len(eps))),
            *(_suite(seeds[row["name"]]) for _ in suite),
            _spread([r["hessian_top"] for r in seeds[row["name"]]], "{:.3g}"),
            Cell(quantity(round(row["set_bytes"] / 1024, 1))),
        )
        for row in rows
    )
    header = (
        title,
        "Labels",
        "Clean (%)",
        *(f"Worst at {radius(e, norm)}" for e in eps),
        *suite,
        "Top eigenvalue",
        "KiB",
    )
    return Table(header, body, text_columns=2)


def _at(rows: list[Row], point: int) -> Cell:
    return _spread([100 * row["worst_curve"][point][1] for row in rows], "{:.1f}")


def _suite(rows: list[Row]) -> Cell:
    return _spread([100 * row["aa_acc"] for row in rows], "{:.1f}")


def _spread(values: list[float], form: str) -> Cell:
    several = form.format(stdev(values)) if len(values) > 1 else ""
    return Cell(form.format(mean(values)), several)


def _short(row: Row) -> str:
    return str(row["name"]).partition(" / ")[0]


def _scores(scores: list[dict[str, Any]]) -> Table:
    columns = {
        "clean_over_random": "Over random, clean",
        "worst_over_random": "worst",
        "clean_hard_gap": "Hard gap, clean",
        "worst_hard_gap": "worst",
        "lrs": "Label-robust score",
    }
    carried = any(entry.get("network") for entry in scores)
    named = [("Learnt by", lambda entry: entry.get("network") or "own")] * carried
    body = tuple(
        (
            Cell(str(entry["arm"])),
            *(Cell(str(text(entry))) for _, text in named),
            Cell(str(entry["ipc"])),
            *(_score(key, entry.get(key)) for key in columns),
        )
        for entry in scores
    )
    words = ("Images", *(title for title, _ in named))
    header = (*words, "Per class", *columns.values())
    return Table(header, body, text_columns=len(words))


def _score(key: str, value: Any) -> Cell:
    if not is_number(value):
        return Cell("–")
    return Cell(f"{value:.2f}" if key == "lrs" else f"{100 * value:+.1f}")
