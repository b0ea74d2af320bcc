"""What each attack of the suite left standing, and what that cost."""

from jaxrobust.report.numbers import duration, is_number, percent, quantity
from jaxrobust.report.page import Block, Cell, Fold, Section, Table
from jaxrobust.report.run import Row, Run

_NOTE = (
    "Percent of all test images that are still read right after the attack of the "
    "column and every attack before it: the worst case, image by image. The interval "
    "counts the chance in which images were tested, for the last attack; it says "
    "nothing of other seeds."
)
_COSTS = {
    "forwards": "Forward passes",
    "backwards": "Backward passes",
    "idle": "Idle passes",
}


def worst_case(run: Run) -> Section | None:
    """One line a network and seed, one column an attack, in the order they ran."""
    rows = [row for row in run.runs if isinstance(row.get("by_attack"), dict)]
    if not rows:
        return None
    several = len({row.get("seed") for row in rows}) > 1
    blocks: list[Block] = [_table(rows, several)]
    if any(is_number(row.get(key)) for row in rows for key in _COSTS):
        blocks.append(Fold("What the suite cost", (_costs(rows, several),)))
    return Section("Worst case of the suite", tuple(blocks))


def _table(rows: list[Row], several: bool) -> Table:
    attacks = list(dict.fromkeys(name for row in rows for name in row["by_attack"]))
    body = tuple(
        (
            _name(row, several),
            _percent(row.get("clean_acc")),
            *(_percent(row["by_attack"].get(name)) for name in attacks),
            Cell(_interval(row)),
        )
        for row in rows
    )
    return Table(("Network", "Clean", *attacks, "95% interval"), body, note=_NOTE)


def _costs(rows: list[Row], several: bool) -> Table:
    body = tuple(
        (
            _name(row, several),
            *(_cost(row.get(key)) for key in _COSTS),
            _cost(row.get("aa_seconds"), duration),
        )
        for row in rows
    )
    note = "Passes are counted in images, with those slots of a batch that stood idle."
    return Table(("Network", *_COSTS.values(), "Time"), body, note=note)


def _name(row: Row, several: bool) -> Cell:
    seed = row.get("seed")
    tag = f"seed {seed}" if several and seed is not None else ""
    return Cell(str(row.get("name", "")), tag=tag)


def _percent(value: object) -> Cell:
    return Cell(percent(value) if is_number(value) else "–")


def _cost(value: object, scale=quantity) -> Cell:
    return Cell(scale(value) if is_number(value) else "–")


def _interval(row: Row) -> str:
    ends = row.get("interval")
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
        return "–"
    return f"{percent(ends[0])} to {percent(ends[1])}"
