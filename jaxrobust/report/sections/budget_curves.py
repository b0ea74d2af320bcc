"""What training on fewer images costs: accuracy against the budget, a line a choice."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from jaxrobust.report import style
from jaxrobust.report.comparison import (
    Look,
    budget,
    budgets,
    by_rule,
    choice,
    half_interval,
    is_comparison,
    looks,
    move_apart,
    takes_all,
)
from jaxrobust.report.numbers import is_number, label, seed_count
from jaxrobust.report.page import Picture, Pictures, Section, slug
from jaxrobust.report.run import Row, Run

_KEYS = ("clean_acc", "pgd_acc")
_WIDE = 12  # the largest budget over the smallest from which the axis is logarithmic
_LONGEST, _LETTER, _LINE = 16, 6.8, 13.5  # letters of a name; CSS pixels


def budget_curves(run: Run) -> Section | None:
    """Clean and PGD accuracy against the budget, one picture for each rule."""
    if not is_comparison(run.rows) or not budgets(run.rows):
        return None
    keys = [k for k in _KEYS if any(is_number(row.get(k)) for row in run.rows)]
    found = looks(run.rows)
    pictures = tuple(
        _plot(key, rule, _with_whole(rows, run.rows), found)
        for rule, rows in by_rule(run.rows).items()
        for key in keys
        if any(is_number(row.get(key)) and not takes_all(row) for row in rows)
    )
    if not pictures:
        return None
    caption = _caption(run.rows, keys)
    return Section("Accuracy against budget", (Pictures(pictures, caption),))


def _with_whole(rows: list[Row], every: list[Row]) -> list[Row]:
    """All images give both rules their length: one network may stand for both."""
    own = any(takes_all(row) for row in rows)
    return rows if own else rows + [row for row in every if takes_all(row)]


def _plot(key: str, rule: str, rows: list[Row], found: dict[str, Look]) -> Picture:
    rows = [row for row in rows if is_number(row.get(key))]
    groups = {name: [r for r in rows if choice(r) == name] for name in found}
    groups = {name: group for name, group in groups.items() if group}
    figure = style.canvas(style.HALF, max(330, 96 + _LINE * len(groups)))
    title = f"{label(key)} accuracy, {rule}"
    longest = min(max(map(len, groups)), _LONGEST)
    room = 26 + _LETTER * longest
    axes = style.panel(figure, title, left=54, bottom=44, right=room)
    style.rule(axes, "y")
    at = _places(axes, budgets(rows), len(groups))
    ends = {}
    for i, (name, group) in enumerate(groups.items()):
        if all(map(takes_all, group)):
            ends[name] = _draw_whole(axes, group[0], key, found[name])
        else:
            ends[name] = _draw_choice(axes, group, key, found[name], at[i])
    _name_lines(axes, ends, found)
    style.name_axes(axes, x="budget (% of the training images)", y="accuracy (%)")
    alt = f"{title}, against the share of the training images, a line for each choice"
    return Picture(f"budget-{slug(key)}-{slug(rule)}", figure, alt)


def _places(axes: Axes, shares: list[float], count: int) -> list[dict[float, float]]:
    """For each of `count` lines {budget: x in percent}, side by side at a budget.

    Where budgets span decades the axis is logarithmic; it is set up on the way.
    """
    wide = shares[-1] > _WIDE * shares[0]
    there, back = (math.log, math.exp) if wide else (float, float)
    x = [there(100 * share) for share in shares]
    span = x[-1] - x[0] or 1.0
    room = min([0.12 * span, *(0.5 * np.diff(x))])
    shifts = np.linspace(-room / 2, room / 2, count) if count > 1 else [0.0]
    if wide:
        axes.set_xscale("log")
    axes.set_xlim(back(x[0] - 0.1 * span), back(x[-1] + 0.1 * span))
    axes.xaxis.set_major_locator(FixedLocator([100 * share for share in shares]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return [{b: back(u + shift) for b, u in zip(shares, x)} for shift in shifts]


def _draw_choice(
    axes: Axes, rows: list[Row], key: str, look: Look, at: dict[float, float]
) -> tuple[float, float]:
    """The line of a choice; returns the point at its largest budget."""
    rows = sorted((r for r in rows if not takes_all(r)), key=budget)
    x = [at[budget(row)] for row in rows]
    y = [100 * row[key] for row in rows]
    bars = [100 * _spread(row, key) for row in rows]
    axes.errorbar(
        x,
        y,
        yerr=bars if any(bars) else None,
        color=look.color,
        linestyle=look.dash,
        linewidth=style.px(1.5),
        elinewidth=style.px(0.9),
        marker=look.marker,
        markersize=style.px(6),
    )
    return x[-1], y[-1]


def _draw_whole(axes: Axes, row: Row, key: str, look: Look) -> tuple[float, float]:
    value, spread = 100 * row[key], 100 * _spread(row, key)
    axes.axhline(value, color=look.color, linestyle=look.dash, lw=style.px(1.6))
    if spread:
        band = (value - spread, value + spread)
        axes.axhspan(*band, color=look.color, alpha=0.1, lw=0)
    return axes.get_xlim()[1], value


def _name_lines(
    axes: Axes, ends: dict[str, tuple[float, float]], found: dict[str, Look]
) -> None:
    """The name of every line at its right end, moved apart and joined to its end."""
    heights = move_apart(axes, [y for _, y in ends.values()], _LINE)
    for (name, end), y in zip(ends.items(), heights):
        axes.annotate(
            style.plain(style.shorten(name, _LONGEST)),
            end,
            (1.07, y),
            textcoords=axes.get_yaxis_transform(),
            annotation_clip=False,
            va="center",
            size=style.px(11.5),
            color=style.MUTED if found[name].color == style.GRAY else style.INK,
            arrowprops={
                "arrowstyle": "-",
                "color": found[name].color,
                "linewidth": style.px(0.7),
                "alpha": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )


def _spread(row: Row, key: str) -> float:
    """Half of the 95% interval; the standard deviation where none was written."""
    half, std = half_interval(row, key), row.get(f"{key}_std")
    if half is not None:
        return half
    return float(std) if is_number(std) and seed_count(row) > 1 else 0.0


def _caption(rows: list[Row], keys: list[str]) -> str:
    pairs = [(row, key) for row in rows for key in keys if seed_count(row) > 1]
    if not pairs:
        parts = ["One seed a point: the differences may be noise."]
    elif all(half_interval(row, key) is not None for row, key in pairs):
        parts = ["Mean over the seeds; bars: 95% interval (Student's t)."]
    else:
        parts = ["Mean over the seeds; bars: 95% interval, else standard deviation."]
    parts.append("Lines stand side by side at a budget, so that their bars show.")
    if any(row.get("by_chance") for row in rows):
        parts.append("Grey lines with markers: chosen by chance.")
    if any(map(takes_all, rows)):
        parts.append("Dashed line across: all images.")
    rules = by_rule(rows)
    alone = [rule for rule in rules if not any(map(takes_all, rules[rule]))]
    if alone and any(map(takes_all, rows)):
        parts.append(f"All images were not trained apart for {', '.join(alone)}.")
    parts.append("The scales need not begin at 0.")
    return " ".join(parts)
