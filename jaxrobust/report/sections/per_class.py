"""Which classes fall first: a mean hides them."""

from matplotlib.lines import Line2D

from jaxrobust.report import style
from jaxrobust.report.page import Picture, Pictures, Section, slug
from jaxrobust.report.run import Run

_MOST_NETWORKS, _MOST_CLASSES = 4, 20
_GAP = ""  # the name of the line where classes were left out

Classes = dict[str, list]  # name -> [clean accuracy, robust accuracy, images]


def class_accuracies(run: Run) -> Section | None:
    """Clean and robust accuracy of every class, for the first networks and seed."""
    first = {name: rows[0].get("per_class") for name, rows in run.runs_by_name.items()}
    found = {name: classes for name, classes in first.items() if classes}
    if not found:
        return None
    shown = dict(list(found.items())[:_MOST_NETWORKS])
    pictures = tuple(
        _dumbbells(i, name, classes) for i, (name, classes) in enumerate(shown.items())
    )
    caption = _caption(found, shown)
    if any(len(rows) > 1 for rows in run.runs_by_name.values()):
        caption += " Of the first seed."
    return Section("Classes", (Pictures(pictures, caption),))


def lines_of(classes: Classes) -> list[str]:
    """Names by robust accuracy, the worst first; of many the ten at either end."""
    names = sorted(classes, key=lambda name: (classes[name][1], classes[name][0]))
    if len(names) <= _MOST_CLASSES:
        return names
    half = _MOST_CLASSES // 2
    return [*names[:half], _GAP, *names[-half:]]


def _dumbbells(number: int, name: str, classes: Classes) -> Picture:
    names = lines_of(classes)
    left_out = len(classes) - _MOST_CLASSES
    words = [n or f"… {left_out} more" for n in names]
    figure = style.canvas(style.HALF, 100 + 19 * len(names))
    title = style.shorten(name, 52)
    axes = style.rows_panel(figure, title, words, bottom=68, right=16)
    style.rule(axes, "x")
    for i, key in enumerate(names):
        if key == _GAP:
            continue
        clean, robust = 100 * classes[key][0], 100 * classes[key][1]
        axes.plot([robust, clean], [i, i], color=style.GRAY, lw=style.px(1.4))
        axes.scatter(clean, i, s=style.px(8) ** 2, color=style.BLUE, lw=0, zorder=3)
        axes.scatter(robust, i, s=style.px(8) ** 2, color=style.ORANGE, lw=0, zorder=3)
    axes.set_xlim(-2, 102)
    style.name_axes(axes, x="accuracy (%)")
    _key(figure)
    alt = f"Clean and robust accuracy of the classes, {name}"
    return Picture(f"classes-{number}-{slug(name)[:40]}", figure, alt)


def _key(figure) -> None:
    dot = {"marker": "o", "linestyle": "", "markersize": style.px(8), "mew": 0}
    pairs = {"under attack": style.ORANGE, "clean": style.BLUE}
    figure.legend(
        handles=[Line2D([], [], color=c, label=n, **dot) for n, c in pairs.items()],
        loc="lower center",
        ncols=2,
        frameon=False,
        fontsize=style.px(11.5),
        labelcolor=style.INK,
        handletextpad=0.1,
        borderaxespad=0.2,
    )


def _caption(found: dict[str, Classes], shown: dict[str, Classes]) -> str:
    counts = [row[2] for classes in shown.values() for row in classes.values()]
    low, high = min(counts), max(counts)
    sizes = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    parts = [
        "Worst class first. Under attack: the worst case of the suite. "
        f"{sizes} images a class."
    ]
    if any(len(classes) > _MOST_CLASSES for classes in shown.values()):
        parts.append("Of many classes, those at both ends.")
    if len(found) > len(shown):
        parts.append(f"The first {len(shown)} of {len(found)} networks.")
    return " ".join(parts)
