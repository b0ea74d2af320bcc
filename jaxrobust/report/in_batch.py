"""What a run tells of selection inside of a training step."""

from jaxrobust.report.numbers import is_number
from jaxrobust.report.run import Curve, Row, Run, split_stage
from jaxrobust.workdir import stage_folder

_WHOLE = "all"  # the selector that takes everything


def selector(row: Row) -> str:
    """The name of the selector of a result row; `all` where nothing is selected."""
    return str(row.get("selection") or _WHOLE)


def learns_all(row: Row) -> bool:
    """Whether the method of a result row learns from every image of its batch."""
    budget = row.get("budget")
    return budget >= 1 if is_number(budget) else selector(row) == _WHOLE


def reference_row(rows: list[Row]) -> Row | None:
    """What selection saves against: the first row that attacks and selects nothing.

    None where no row selects, too: then there is nothing to compare.
    """
    if all(learns_all(row) for row in rows):
        return None
    attacked = (row for row in rows if (row.get("attack_seconds") or 0) > 0)
    return next((row for row in attacked if learns_all(row)), None)


def stage_kind(name: str) -> str:
    """The row `ds / original` logs as the stage `seed0/ds-original`: `ds-original`."""
    return split_stage(stage_folder(name, 0))[1]


def curves_of(run: Run, name: str) -> list[Curve]:
    """The metrics of the row called `name`, one curve a seed."""
    kind = stage_kind(name)
    return [c for stage, c in run.metrics.items() if split_stage(stage)[1] == kind]


def series(curve: Curve, key: str) -> dict[int, float]:
    """{step: value} of one logged quantity."""
    return {s: float(p[key]) for s, p in curve.items() if is_number(p.get(key))}


def mean_series(many: list[dict[int, float]]) -> dict[int, float]:
    """The mean over seeds, at the steps that all of them have."""
    steps = sorted(set.intersection(*map(set, many))) if many else []
    return {step: sum(one[step] for one in many) / len(many) for step in steps}
