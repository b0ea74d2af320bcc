"""Where the time went: attack, score, select, train."""

from statistics import stdev

from matplotlib.patches import Patch

from jaxrobust.report import style
from jaxrobust.report.comparison import by_rule, is_comparison, short_name
from jaxrobust.report.in_batch import reference_row
from jaxrobust.report.numbers import is_number, label, percent
from jaxrobust.report.page import (
    Block,
    Cell,
    Fold,
    Picture,
    Pictures,
    Section,
    Table,
    slug,
)
from jaxrobust.report.run import Row, Run

_PARTS = {
    "attack_seconds": ("Attack", style.ORANGE),
    "score_seconds": ("Score", style.AMBER),
    "select_seconds": ("Select", style.GREEN),
    "train_seconds": ("Train", style.BLUE),
    "rounds_seconds": ("Ranking network", style.PINK),
}
_COMPARED_ONLY = "rounds_seconds"  # part of what a comparison counts as time
_MEASURED, _COUNTED = "Relative (%)", "Arithmetic (%)"


def time_split(run: Run) -> Section | None:
    """Stacked bars of seconds and of shares for each row, and the same as a table."""
    compared = is_comparison(run.rows)
    keys = [key for key in _PARTS if compared or key != _COMPARED_ONLY]
    rows = [row for row in run.rows if any(is_number(row.get(key)) for key in keys)]
    if not rows:
        return None
    parts = [key for key in keys if any(is_number(row.get(key)) for row in rows)]
    caption = "Mean over the seeds; only the parts that the run measured."
    table = _table(run, rows, parts)
    groups = by_rule(rows).items()
    seconds = tuple(_bars(group, parts, False, rule) for rule, group in groups)
    shares = tuple(_bars(group, parts, True, rule) for rule, group in groups)
    if not compared:
        return Section("Time", (Pictures((*seconds, *shares), caption), table))
    rest: tuple[Block, ...] = (Pictures(shares, "As above."), table)
    fold = Fold("Shares of each part, and the numbers", rest)
    return Section("Time", (Pictures(seconds, caption), fold))


def _bars(rows: list[Row], parts: list[str], shares: bool, rule: str) -> Picture:
    title, unit = (
        ("Share of each part", "%") if shares else ("Seconds of each part", "seconds")
    )
    title += f", {rule}" if rule else ""
    names = [short_name(row) for row in rows]
    figure = style.canvas(style.HALF, 106 + 23 * len(rows))
    axes = style.rows_panel(figure, title, names, bottom=70, right=16)
    style.rule(axes, "x")
    for i, row in enumerate(rows):
        whole = _sum(row, parts)
        scale = 100 / whole if shares and whole else 1.0
        start = 0.0
        for part in parts:
            width = scale * _seconds(row, part)
            axes.barh(i, width, left=start, height=0.62, color=_PARTS[part][1])
            start += width
    if shares:
        axes.set_xlim(0, 100)
    style.name_axes(axes, x=unit)
    figure.legend(
        handles=[Patch(color=_PARTS[p][1], label=_PARTS[p][0].lower()) for p in parts],
        loc="lower center",
        ncols=len(parts),
        frameon=False,
        fontsize=style.px(11.5),
        labelcolor=style.INK,
        handlelength=1,
        handletextpad=0.5,
        borderaxespad=0.2,
    )
    alt = f"{title} ({unit}), for every row: attack, score, select, train"
    alt += ", ranking network" if _COMPARED_ONLY in parts else ""
    name = slug(f"time {'share' if shares else 'seconds'} {rule}")
    return Picture(name, figure, alt)


def _table(run: Run, rows: list[Row], parts: list[str]) -> Table:
    seen = dict.fromkeys(key for row in rows for key in row if key not in parts)
    if is_comparison(rows):
        seen.pop("total_seconds", None)  # the sum of these parts
    others = [
        key
        for key in seen
        if key.endswith("_seconds") and any(_seconds(row, key) for row in rows)
    ]
    reference = reference_row(rows)
    compared = _compared(run, rows, parts, reference) if reference else {}
    titles = [f"{label(key.removesuffix('_seconds'))} (s)" for key in others]
    names = (
        *(f"{_PARTS[part][0]} (s)" for part in parts),
        "Sum (s)",
        *compared,
        *titles,
    )
    body = tuple(
        (
            Cell(str(row.get("name", ""))),
            *(Cell(f"{_seconds(row, part):,.1f}") for part in parts),
            Cell(f"{_sum(row, parts):,.1f}"),
            *(column[i] for column in compared.values()),
            *(Cell(f"{_seconds(row, key):,.1f}") for key in others),
        )
        for i, row in enumerate(rows)
    )
    notes = ["Columns after the sum are not part of it."] if others else []
    if reference and compared:
        notes.append(_compared_note(reference, compared))
    who = "Choice / budget" if is_comparison(rows) else "Objective / data"
    return Table((who, *names), body, note=" ".join(notes))


def _compared(
    run: Run, rows: list[Row], parts: list[str], reference: Row
) -> dict[str, list[Cell]]:
    """{title: cells}: the sum as a share of the reference's, measured and counted."""
    found = {_MEASURED: [_measured(run, row, parts, reference) for row in rows]}
    if any(is_number(row.get("relative_cost")) for row in rows):
        found[_COUNTED] = [_counted(row, row is reference) for row in rows]
    return found if _sum(reference, parts) > 0 else {}


def _measured(run: Run, row: Row, parts: list[str], reference: Row) -> Cell:
    """Of the means over seeds; its spread is that of the seeds' own shares."""
    text = percent(_sum(row, parts) / _sum(reference, parts))
    whole = _by_seed(run, reference, parts)
    seeds = _by_seed(run, row, parts)
    shares = [seconds / whole[s] for s, seconds in seeds.items() if whole.get(s)]
    if len(shares) < 2:
        return Cell(text)
    return Cell(text, percent(stdev(shares)))


def _by_seed(run: Run, row: Row, parts: list[str]) -> dict[object, float]:
    runs = run.runs_by_name.get(str(row.get("name", "")), [])
    return {one.get("seed"): _sum(one, parts) for one in runs}


def _counted(row: Row, is_reference: bool) -> Cell:
    cost = row.get("relative_cost", 1.0 if is_reference else None)
    return Cell(percent(cost) if is_number(cost) else "–")


def _compared_note(reference: Row, compared: dict[str, list[Cell]]) -> str:
    note = (
        f"{_MEASURED}: the sum as a share of that of {reference.get('name', '')}, "
        "which learns from every image."
    )
    if _COUNTED in compared:
        note += f" {_COUNTED}: the same counted in passes through the network."
    return note


def _seconds(row: Row, part: str) -> float:
    value = row.get(part)
    return float(value) if is_number(value) else 0.0


def _sum(row: Row, parts: list[str]) -> float:
    return sum(_seconds(row, part) for part in parts)
