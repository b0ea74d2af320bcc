"""Accuracies as dots, one a seed: whether methods differ by more than seeds do."""

from jaxrobust.report import style
from jaxrobust.report.comparison import by_rule, is_comparison, short_name
from jaxrobust.report.numbers import (
    is_accuracy,
    is_number,
    label,
    percent,
    quantities,
    seed_count,
    suite_names,
)
from jaxrobust.report.page import Block, Fold, Picture, Pictures, Section, slug
from jaxrobust.report.run import Row, Run

_COMPARED = "pgd_acc"  # of a comparison, which has many rows, the one shown first
_ROOM = 3  # an outlier may stretch the scale to this many times the others' range


def accuracy_dots(run: Run) -> Section | None:
    """One plot for each accuracy, one line a row, one dot a seed."""
    keys = [key for key in quantities(run.rows) if is_accuracy(key)]
    one_seed = all(seed_count(row) == 1 for row in run.rows)
    if not keys or (one_seed and suite_names(run.rows)):
        return None  # many attacks on one seed: their table says it all
    groups = by_rule(run.rows).items()
    shown = {key: [_dots(run, rows, key, r) for r, rows in groups] for key in keys}
    caption = (
        "One dot a seed, a bar at their mean; baselines in grey. Each plot has its own "
        "scale, which need not begin at 0; a row far below it is given as a number."
    )
    first = [_COMPARED] if is_comparison(run.rows) and _COMPARED in keys else keys
    opened = tuple(picture for key in first for picture in shown.pop(key))
    blocks: list[Block] = [Pictures(opened, caption)]
    rest = tuple(picture for pictures in shown.values() for picture in pictures)
    if rest:
        blocks.append(Fold("The other accuracies", (Pictures(rest, "As above."),)))
    return Section("Accuracy by seed", tuple(blocks))


def _dots(run: Run, rows: list[Row], key: str, rule: str) -> Picture:
    rows = [row for row in rows if is_number(row.get(key))]
    values = [_values(run, row, key) for row in rows]
    shown = on_scale(values)
    figure = style.canvas(style.HALF, 76 + 23 * len(rows))
    title = f"{label(key, rows)} accuracy" + (f", {rule}" if rule else "")
    names = [short_name(row) for row in rows]
    axes = style.rows_panel(figure, title, names, bottom=42, right=16)
    style.rule(axes, "both")
    for i, row in enumerate(rows):
        color = style.GRAY if row.get("baseline") else style.BLUE
        if i in shown:
            _row_of_dots(axes, i, [100 * value for value in values[i]], color)
        else:
            _off_scale(axes, i, f"← {percent(row[key])}", color)
    axes.margins(x=0.06)
    style.name_axes(axes, x="test accuracy (%)")
    name = f"accuracy-{slug(f'{key} {rule}')}"
    return Picture(name, figure, f"{title} of every row, by seed")


def on_scale(values: list[list[float]]) -> set[int]:
    """The rows that set the scale: all, but for those that lie far below the others.

    A model without any defence would otherwise squeeze all the others into one dot.
    """
    order = sorted(range(len(values)), key=lambda i: min(values[i]))
    top = max((max(row) for row in values), default=0.0)
    for cut in range(1, len(order) - 1):
        kept, low = order[cut:], max(max(values[i]) for i in order[:cut])
        start = min(min(values[i]) for i in kept)
        if start - low > _ROOM * max(top - start, 0.005):
            return set(kept)
    return set(order)


def _row_of_dots(axes, i: int, dots: list[float], color: str) -> None:
    mean = sum(dots) / len(dots)
    axes.plot([mean, mean], [i - 0.32, i + 0.32], color=color, lw=style.px(2.2))
    axes.scatter(
        dots, [i] * len(dots), s=style.px(8) ** 2, color=color, alpha=0.55, lw=0
    )


def _off_scale(axes, i: int, text: str, color: str) -> None:
    at = axes.get_yaxis_transform()
    axes.text(
        0.01, i, text, transform=at, va="center", size=style.px(11.5), color=color
    )


def _values(run: Run, row: Row, key: str) -> list[float]:
    found = [r.get(key) for r in run.runs if r.get("name") == row.get("name")]
    return [value for value in found if is_number(value)] or [row[key]]
