"""How much of the training set became generated, by round and by class."""

from collections import defaultdict

import numpy as np

from jaxrobust.report import style
from jaxrobust.report.numbers import is_number
from jaxrobust.report.page import Picture, Pictures, Section
from jaxrobust.report.run import Run, Selection

_MOST_CLASSES = 20


def generated_images(run: Run) -> Section | None:
    """Share of generated images in every round, and their number in every class."""
    pictures = [p for p in (_share(run), _per_class(run)) if p is not None]
    if not pictures:
        return None
    caption = (
        "One dot a seed, a line or bar at the mean. A share below that of the "
        "candidates means that the selection preferred original images."
    )
    return Section("Generated images kept", (Pictures(tuple(pictures), caption),))


def _share(run: Run) -> Picture | None:
    points = [
        (s.round, 100 * s.info["generated_share"], _offered(s))
        for s in run.selections
        if s.round is not None and is_number(s.info.get("generated_share"))
    ]
    if not points:
        return None
    rounds, kept, offered = (np.array(column, float) for column in zip(*points))
    figure = style.canvas(style.HALF, 290)
    axes = style.panel(figure, "Share of generated images")
    style.rule(axes, "y")
    lines = (
        (offered, style.GRAY, (0, (4, 1.5)), "offered: among the candidates"),
        (kept, style.BLUE, "-", "kept: in the training set"),
    )
    for values, color, dash, text in lines:
        if np.isfinite(values).all():
            _mean_line(axes, rounds, values, color, dash, text)
    axes.set_xticks(np.unique(rounds), [f"{r:.0f}" for r in np.unique(rounds)])
    axes.set_xlim(rounds.min() - 0.5, rounds.max() + 0.5)
    axes.set_ylim(0, min(108, 1.3 * axes.get_ylim()[1]))
    style.key(axes, loc="upper left", borderaxespad=0.1)
    style.name_axes(axes, x="round", y="%")
    return Picture("generated-share", figure, "Share of generated images by round")


def _mean_line(axes, rounds, values, color, dash, text) -> None:
    ticks = np.unique(rounds)
    means = [values[rounds == r].mean() for r in ticks]
    marker = "_" if len(ticks) == 1 else None
    axes.plot(
        ticks, means, color=color, ls=dash, lw=style.px(1.8), label=text,
        marker=marker, ms=style.px(26), mew=style.px(2),
    )  # fmt: skip
    axes.scatter(rounds, values, s=style.px(7) ** 2, color=color, alpha=0.6, lw=0)


def _offered(selection: Selection) -> float:
    """Percent of generated images among the candidates: what chance would keep."""
    flags = selection.arrays().get("generated")
    return float("nan") if flags is None or not len(flags) else 100 * flags.mean()


def _per_class(run: Run) -> Picture | None:
    last = {s.seed: s for s in run.selections if s.info.get("generated_per_class")}
    if not any(_offered(selection) for selection in last.values()):
        return None
    counts: dict[str, list[float]] = defaultdict(list)
    for selection in last.values():
        for key, count in selection.info["generated_per_class"].items():
            counts[selection.class_name(key)].append(count)
    names, title = list(counts), "Generated images kept, by class"
    if len(names) > _MOST_CLASSES:
        names = sorted(names, key=lambda name: -np.mean(counts[name]))[:_MOST_CLASSES]
        title += f" ({_MOST_CLASSES} largest)"
    figure = style.canvas(style.HALF, max(290, 76 + 21 * len(names)))
    axes = style.rows_panel(figure, title, names, right=16)
    style.rule(axes, "x")
    means = [float(np.mean(counts[name])) for name in names]
    axes.barh(range(len(names)), means, height=0.62, color=style.SKY, alpha=0.75)
    for i, name in enumerate(names):
        axes.scatter(
            counts[name], [i] * len(counts[name]), s=style.px(6) ** 2,
            color=style.BLUE, alpha=0.75, lw=0,
        )  # fmt: skip
    style.name_axes(axes, x="images in the last round")
    return Picture("generated-per-class", figure, title)
