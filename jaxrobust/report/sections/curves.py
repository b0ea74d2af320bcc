"""Training curves: small plots that share one key, a colour for each kind of stage."""

from jaxrobust.report import style
from jaxrobust.report.numbers import (
    is_accuracy,
    is_fraction,
    is_number,
    known_first,
    label,
)
from jaxrobust.report.page import Picture, Pictures, Section, slug
from jaxrobust.report.run import Curve, Run, split_stage

_NOT_DRAWN = {"step", "epoch", "round", "seed", "lr", "images_per_second"}
_NOT_DRAWN |= {"keep", "p_up", "chosen_clean", "chosen_adv", "chosen_minimum"}
_MOST_PLOTS = 9

Lines = list[tuple[str, list[int], list[float]]]  # kind of stage, steps, values


def training_curves(run: Run) -> Section | None:
    """One plot for each logged quantity, one line for each stage and seed."""
    plots = _plots(run.metrics)
    if not plots:
        return None
    kinds = list(dict.fromkeys(split_stage(stage)[1] for stage in run.metrics))
    looks = {kind: style.LOOKS[i % len(style.LOOKS)] for i, kind in enumerate(kinds)}
    pictures = [_plot(title, key, lines, looks) for title, key, lines in plots]
    if len(kinds) > 1:
        pictures.insert(0, _legend(looks))
    caption = "One line for each stage and seed; the seeds of a stage share its colour."
    return Section("Training curves", (Pictures(tuple(pictures), caption),))


def _plots(metrics: dict[str, Curve]) -> list[tuple[str, str, Lines]]:
    """(title, quantity, lines): classifiers first, then stages without an accuracy.

    The loss of a generator means something else than that of a classifier, so the two
    never share a plot.
    """
    classifiers, others = {}, {}
    for stage, curve in metrics.items():
        keys = {key for point in curve.values() for key in point}
        (classifiers if any(map(is_accuracy, keys)) else others)[stage] = curve
    kinds = {split_stage(stage)[1] for stage in others}
    whose = kinds.pop() if len(kinds) == 1 else "other stages"
    suffix = f", {whose}" if classifiers else ""
    plots = [(label(key), key, _lines(classifiers, key)) for key in _keys(classifiers)]
    plots += [(label(key) + suffix, key, _lines(others, key)) for key in _keys(others)]
    return plots[:_MOST_PLOTS]


def _keys(metrics: dict[str, Curve]) -> list[str]:
    points = [point for curve in metrics.values() for point in curve.values()]
    keys = dict.fromkeys(k for p in points for k, v in p.items() if is_number(v))
    skipped = {key for key in keys if key in _NOT_DRAWN or key.endswith("_seconds")}
    return known_first(key for key in keys if key not in skipped)


def _lines(metrics: dict[str, Curve], key: str) -> Lines:
    lines: Lines = []
    for stage, curve in metrics.items():
        points = [(s, p[key]) for s, p in curve.items() if is_number(p.get(key))]
        if points:
            steps, values = zip(*points)
            lines.append((split_stage(stage)[1], list(steps), list(values)))
    return lines


def _plot(title: str, key: str, lines: Lines, looks: dict) -> Picture:
    figure = style.canvas(style.HALF, 250)
    axes = style.panel(figure, title)
    style.rule(axes, "y")
    scale = 100 if is_fraction(key) else 1
    for kind, steps, values in lines:
        color, dash = looks[kind]
        axes.plot(
            steps,
            [scale * value for value in values],
            color=color,
            linestyle=dash,
            linewidth=style.px(1.4),
            alpha=0.85,
            marker="o" if len(steps) == 1 else None,
        )
    values = [value for line in lines for value in line[2]]
    if not is_fraction(key) and min(values) > 0 and max(values) > 100 * min(values):
        axes.set_yscale("log")
    axes.margins(x=0.02)
    style.name_axes(axes, x="step", y="%" if is_fraction(key) else "")
    return Picture(f"curve-{slug(title)}", figure, f"{title} against the step")


def _legend(looks: dict) -> Picture:
    figure = style.key_figure("Stages", looks)
    return Picture("curve-key", figure, "Colour of every kind of stage")
