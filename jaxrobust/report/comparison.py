"""How a comparison of data selection methods is read: its rows, rules and choices.

A row is one choice of training images at one budget, trained under one rule: the same
number of steps as the others, or the same time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes

from jaxrobust import metrics
from jaxrobust.metrics import CLAIM_SEEDS
from jaxrobust.report import style
from jaxrobust.report.numbers import is_number, seed_count
from jaxrobust.report.run import Row, Run

_RULES = {"steps": "equal steps", "epochs": "equal epochs", "time": "equal time"}
_COLORS = style.PALETTE[:-1]  # grey is for references
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # one more than colours: 42 pairs


@dataclass(frozen=True)
class Look:
    """How one choice is drawn wherever it appears."""

    color: str
    marker: str
    dash: str | tuple = "-"


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of a paired difference of fractions.

    `half` is half of its 95% interval, None where there are fewer than two seeds.
    """

    mean: float
    half: float | None
    seeds: int

    @property
    def verdict(self) -> str:
        """`higher` or `lower` only where the interval leaves zero out."""
        if self.half is None or self.seeds < CLAIM_SEEDS:
            return "too few seeds"
        if abs(self.mean) <= self.half:
            return "not distinguishable"
        return "higher" if self.mean > 0 else "lower"


def is_comparison(rows: Iterable[Row]) -> bool:
    """Whether the rows compare choices of training images at budgets."""
    return any(is_number(row.get("budget")) for row in rows)


def by_rule(rows: list[Row]) -> dict[str, list[Row]]:
    """{`equal steps`: rows, `equal time`: rows}; {"": rows} of any other run."""
    if not is_comparison(rows):
        return {"": rows}
    found: dict[str, list[Row]] = {}
    for row in rows:
        rule = str(row.get("rule", ""))
        found.setdefault(_RULES.get(rule, rule), []).append(row)
    return found


def short_name(row: Row) -> str:
    """The name of a row without its rule, for a place that tells the rule."""
    name = str(row.get("name", ""))
    rule = _RULES.get(str(row.get("rule")), "")
    return name.removesuffix(rule).rstrip(" ,") if is_comparison([row]) else name


def choice(row: Row) -> str:
    """What chose the training images of a row."""
    return str(row.get("choice") or short_name(row).partition(" / ")[0])


def budgets(rows: list[Row]) -> list[float]:
    """Every budget below all images, ascending."""
    return sorted({budget(row) for row in rows} - {0, 1})


def budget(row: Row) -> float:
    """The share of the images that a row trains on, 0 where it is not told.

    Rounded, since a mean of equal numbers may differ from them in its last digit.
    """
    value = row.get("budget")
    return round(float(value), 6) if is_number(value) else 0.0


def takes_all(row: Row) -> bool:
    """Whether a row trains on every image: what selection is measured against."""
    return budget(row) >= 1


def looks(rows: list[Row]) -> dict[str, Look]:
    """{choice: look}; grey for all images and for choices by chance."""
    found: dict[str, Look] = {}
    picked, chance = 0, 0
    for row in rows:
        name = choice(row)
        if name in found:
            continue
        if row.get("by_chance"):
            dash = style.DASHES[2 - chance % 2]
            found[name] = Look(style.GRAY, _MARKERS[chance % len(_MARKERS)], dash)
            chance += 1
        elif takes_all(row):
            found[name] = Look(style.GRAY, "*", style.DASHES[1])
        else:
            color = _COLORS[picked % len(_COLORS)]
            dash = style.DASHES[picked // len(_COLORS) % len(style.DASHES)]
            found[name] = Look(color, _MARKERS[picked % len(_MARKERS)], dash)
            picked += 1
    return found


def half_interval(row: Row, key: str) -> float | None:
    """Half of the 95% interval over seeds of `key`, a fraction; None of one seed."""
    ends = row.get(f"{key}_interval")
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
        return None
    return max(row[key] - ends[0], ends[1] - row[key]) if seed_count(row) > 1 else None


def random_of(rows: list[Row], row: Row) -> Row | None:
    """The row by chance with the budget and the rule of `row`, `random` if there."""
    same = [
        other
        for other in rows
        if other.get("by_chance")
        and (budget(other), other.get("rule")) == (budget(row), row.get("rule"))
    ]
    return next((x for x in same if choice(x) == "random"), same[0] if same else None)


def difference(run: Run, row: Row, reference: Row, key: str) -> Difference | None:
    """`row` minus `reference` in `key`, paired by seed; None without common seeds.

    The interval is Student's t over the differences of the seeds.
    """
    ours, theirs = (_by_seed(run, one, key) for one in (row, reference))
    paired = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
    if not paired:
        return None
    if len(paired) < 2:
        return Difference(paired[0], None, 1)
    return Difference(fmean(paired), metrics.half_interval(paired), len(paired))


def front(rows: list[Row], key: str) -> list[Row]:
    """The rows that no other row beats in both `total_seconds` and `key`, by time."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["total_seconds"], -row[key])):
        if not found or row[key] > found[-1][key]:
            found.append(row)
    return found


def move_apart(axes: Axes, values: list[float], gap: float) -> list[float]:
    """`values` of the y axis, at least `gap` CSS pixels apart in their order.

    They stay in the plot where it has the room. The mean of pushing everything up and
    pushing everything down keeps the gap. Fixes the limits of the axis.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    figure = axes.get_figure(root=True)
    assert figure is not None
    height = style.css_size(figure)[1] * axes.get_position().height
    steps = gap * (high - low) / height * np.arange(len(values))
    order = np.argsort(values, kind="stable")
    base = np.asarray(values, float)[order] - steps
    up = np.maximum.accumulate(base)
    down = np.minimum.accumulate(base[::-1])[::-1]
    found = np.empty(len(values))
    top = max(high - steps[-1], low)
    found[order] = np.clip((up + down) / 2, low, top) + steps
    return found.tolist()


def _by_seed(run: Run, row: Row, key: str) -> dict[object, float]:
    runs = run.runs_by_name.get(str(row.get("name", "")), [])
    return {one.get("seed"): one[key] for one in runs if is_number(one.get(key))}
