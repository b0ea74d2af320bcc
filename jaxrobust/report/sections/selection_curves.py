"""What is selected while training: how much, clean or attacked, how near to minimal."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxrobust.report import style
from jaxrobust.report.in_batch import (
    curves_of,
    learns_all,
    mean_series,
    series,
    stage_kind,
)
from jaxrobust.report.numbers import is_number
from jaxrobust.report.page import Block, Fold, Picture, Pictures, Section
from jaxrobust.report.run import Curve, Run, split_stage

_MOST_METHODS = 4
_HEIGHT = 270
_COUNTS = {
    "clean": ("chosen_clean", style.BLUE),
    "adversarial": ("chosen_adv", style.ORANGE),
}


@dataclass(frozen=True)
class _Method:
    """One method that selects; `look` is its colour and dash in the training curves."""

    number: int
    name: str
    curves: list[Curve]
    steps_per_epoch: int
    look: tuple

    def has(self, key: str) -> bool:
        """Whether every seed logged `key`."""
        return bool(self.curves) and all(series(c, key) for c in self.curves)


def selection_curves(run: Run) -> Section | None:
    """P_up, selected clean and adversarial images, and near-minimal ones, by epoch.

    Ref: data selection for adversarial training, figures 6 to 8.
    """
    methods = _methods(run)
    adaptive = _groups([m for m in methods if m.has("p_up")])
    counted = _groups(
        [m for m in methods if any(m.has(k) for k, _ in _COUNTS.values())]
    )
    minimal = _groups([m for m in methods if m.has("chosen_minimum")])
    top = _largest_count(methods)
    kinds: tuple[tuple[list[list[_Method]], Callable], ...] = (
        (adaptive, lambda i, group: [_shares(i, group)]),
        (minimal, lambda i, group: [_minimal(i, group)]),
        (counted, lambda i, group: [_counts(method, top) for method in group]),
    )
    shown = [p for groups, draw in kinds for g in groups[:1] for p in draw(0, g)]
    if not shown:
        return None
    several = any(len(method.curves) > 1 for method in methods)
    caption = _caption(bool(adaptive), bool(counted), bool(minimal), several)
    blocks: list[Block] = [Pictures(tuple(shown), caption)]
    rest = [
        picture
        for groups, draw in kinds
        for i, group in enumerate(groups[1:], 1)
        for picture in draw(i, group)
    ]
    if rest:
        blocks.append(Fold("The other methods", (Pictures(tuple(rest), "As above."),)))
    return Section("What was selected", tuple(blocks))


def _methods(run: Run) -> list[_Method]:
    kinds = list(dict.fromkeys(split_stage(stage)[1] for stage in run.metrics))
    found = []
    for row in run.rows:
        name, steps = str(row.get("name", "")), row.get("steps_per_epoch")
        curves = curves_of(run, name)
        if curves and not learns_all(row) and is_number(steps) and steps >= 1:
            look = style.LOOKS[kinds.index(stage_kind(name)) % len(style.LOOKS)]
            found.append(_Method(len(found), name, curves, int(steps), look))
    return found


def _groups(methods: list[_Method]) -> list[list[_Method]]:
    starts = range(0, len(methods), _MOST_METHODS)
    return [methods[i : i + _MOST_METHODS] for i in starts]


def _largest_count(methods: list[_Method]) -> float:
    """Of any epoch and seed: the panels of counts share their scale."""
    return max(
        (
            value
            for method in methods
            for key, _ in _COUNTS.values()
            for curve in method.curves
            for value in series(curve, key).values()
        ),
        default=1.0,
    )


def _shares(number: int, group: list[_Method]) -> Picture:
    title = "P_up of equation 9"
    figure, axes = _panel(title, {m.name: m.look for m in group})
    for method in group:
        if method.has("keep"):
            many = [series(curve, "keep") for curve in method.curves]
            effect, color = mean_series(many), method.look[0]
            epochs = [step / method.steps_per_epoch for step in effect]
            width = style.px(5)
            axes.plot(epochs, list(effect.values()), color=color, alpha=0.25, lw=width)
        _draw(axes, method, "p_up", *method.look)
    axes.set_ylim(0, 1.03)
    style.name_axes(axes, x="epoch", y="share of the images")
    return Picture(f"selection-share-{number}", figure, f"{title}, by epoch")


def _minimal(number: int, group: list[_Method]) -> Picture:
    title = "Near-minimal adversarial images selected"
    figure, axes = _panel(title, {m.name: m.look for m in group})
    for method in group:
        _draw(axes, method, "chosen_minimum", *method.look)
    axes.set_ylim(bottom=0)
    style.name_axes(axes, x="epoch", y="images a step")
    return Picture(f"selection-minimum-{number}", figure, f"{title}, by epoch")


def _counts(method: _Method, top: float) -> Picture:
    kinds = {name: pair for name, pair in _COUNTS.items() if method.has(pair[0])}
    title = style.shorten(f"Images selected, {method.name}", 52)
    figure, axes = _panel(
        title, {name: (color, "-") for name, (_, color) in kinds.items()}
    )
    for key, color in kinds.values():
        _draw(axes, method, key, color, "-")
    axes.set_ylim(0, 1.04 * max(top, 1))
    style.name_axes(axes, x="epoch", y="images a step")
    alt = f"Clean and adversarial images that {method.name} selected, by epoch"
    return Picture(f"selection-counts-{method.number}", figure, alt)


def _panel(title: str, looks: dict) -> tuple[Figure, Axes]:
    figure = style.canvas(style.HALF, _HEIGHT)
    room = style.foot_key(figure, looks)
    axes = style.panel(figure, title, left=50, bottom=42 + room)
    style.rule(axes, "y")
    axes.margins(x=0.02)
    ticks = MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True)
    axes.xaxis.set_major_locator(ticks)
    return figure, axes


def _draw(axes: Axes, method: _Method, key: str, color: str, dash) -> None:
    """The mean over seeds; where there are several, each of them as a thin line."""
    many = [series(curve, key) for curve in method.curves]
    lines = [(mean_series(many), 1.7, 1.0)]
    if len(many) > 1:
        lines += [(one, 0.7, 0.4) for one in many]
    for points, width, alpha in lines:
        axes.plot(
            [step / method.steps_per_epoch for step in points],
            list(points.values()),
            color=color,
            linestyle=dash,
            linewidth=style.px(width),
            alpha=alpha,
            marker="o" if len(points) == 1 else None,
        )


def _caption(adaptive: bool, counted: bool, minimal: bool, several: bool) -> str:
    parts = ["Means over the steps between two log lines."]
    if several:
        parts.append("Thick: the mean over the seeds; thin: each seed.")
    if adaptive:
        parts.append(
            "Pale under the line of P_up: the share in effect, which is one of a few "
            "fixed sizes."
        )
    if counted:
        parts.append("The plots of clean and adversarial images share their scale.")
    if minimal:
        parts.append(
            "Near-minimal: the image fools the network, and with half of its "
            "perturbation it does not."
        )
    return " ".join(parts)
