"""What accuracy costs in time: the rows that nothing beats, and each against chance."""

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from jaxrobust.report import style
from jaxrobust.report.comparison import (
    Difference,
    Look,
    budget,
    by_rule,
    choice,
    difference,
    front,
    half_interval,
    is_comparison,
    looks,
    move_apart,
    random_of,
    short_name,
)
from jaxrobust.report.numbers import cell, is_number, label, percent, quantity
from jaxrobust.report.page import Block, Cell, Picture, Pictures, Section, Table, Text
from jaxrobust.report.run import Row, Run

_KEY = "pgd_acc"
_WIDE = 8  # the longest time over the shortest from which the axis is logarithmic
_PARTS = {
    "attack_seconds": "attacks",
    "score_seconds": "scores",
    "select_seconds": "selection",
    "train_seconds": "training",
    "rounds_seconds": "training of the network that ranks the images",
}


def pareto(run: Run) -> Section | None:
    """PGD accuracy against total seconds with its front; every row against chance."""
    rows = [
        row
        for row in run.rows
        if is_number(row.get(_KEY)) and (row.get("total_seconds") or 0) > 0
    ]
    if not rows or not is_comparison(rows):
        return None
    best, found = front(rows, _KEY), looks(rows)
    plot = Pictures((_plot(rows, best, found), _key(rows, found)), _caption(rows, best))
    return Section("Accuracy against time", (plot, *_tables(run, rows, best)))


def _plot(rows: list[Row], best: list[Row], found: dict[str, Look]) -> Picture:
    figure = style.canvas(style.HALF, 380)
    title = f"{label(_KEY)} accuracy against time"
    axes = style.panel(figure, title, left=54, bottom=44)
    style.rule(axes, "both")
    for row in rows:
        look, full = found[choice(row)], row.get("rule") != "time"
        axes.plot(
            row["total_seconds"],
            100 * row[_KEY],
            color=look.color,
            marker=look.marker,
            markersize=style.px(_size(row) + (0 if full else 2.5)),
            markerfacecolor=look.color if full else "none",
            markeredgewidth=style.px(1.2),
            alpha=0.9,
        )
    _scale(axes, [row["total_seconds"] for row in rows])
    axes.margins(x=0.06, y=0.08)
    _draw_front(axes, best)
    style.name_axes(axes, x="total seconds", y="accuracy (%)")
    alt = f"{title} of every row; the front joined: {_names(best)}"
    return Picture("pareto", figure, alt)


def _size(row: Row) -> float:
    """The diameter of a marker in CSS pixels: the more images, the larger."""
    return 4.5 + 5 * budget(row)


def _draw_front(axes: Axes, best: list[Row]) -> None:
    """Steps, since between two members the slower one is not yet to be had."""
    seconds = [row["total_seconds"] for row in best]
    axes.plot(
        seconds,
        [100 * row[_KEY] for row in best],
        color=style.INK,
        linewidth=style.px(1.1),
        drawstyle="steps-post",
        zorder=1.5,
    )
    heights = move_apart(axes, [100 * row[_KEY] for row in best], 13)
    for number, (row, height) in enumerate(zip(best, heights), 1):
        axes.annotate(
            str(number),
            (row["total_seconds"], height),
            (-style.px(8), style.px(3)),
            textcoords="offset points",
            ha="right",
            size=style.px(12),
            weight="bold",
            color=style.INK,
        )


def _scale(axes: Axes, seconds: list[float]) -> None:
    if max(seconds) <= _WIDE * min(seconds):
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _key(rows: list[Row], found: dict[str, Look]) -> Picture:
    """Which marker is which choice, and what filled and open ones mean."""
    rules = by_rule(rows)
    shapes = {
        style.shorten(name, 24): (look.color, look.marker, look.color)
        for name, look in found.items()
    }
    if len(rules) > 1:
        fills = (style.MUTED, "none")
        shapes |= {rule: (style.MUTED, "o", f) for rule, f in zip(rules, fills)}
    figure = style.canvas(style.HALF, 44 + 20 * -(-len(shapes) // 2))
    axes = style.panel(figure, "Choices", left=0, right=0, bottom=0)
    axes.set_axis_off()
    axes.legend(
        [
            Line2D([], [], color=color, marker=marker, markerfacecolor=fill, lw=0)
            for color, marker, fill in shapes.values()
        ],
        [style.plain(name) for name in shapes],
        loc="upper left",
        ncols=2,
        frameon=False,
        fontsize=style.px(12),
        labelcolor=style.INK,
        borderaxespad=0,
    )
    return Picture("pareto-key", figure, "The marker of every choice")


def _caption(rows: list[Row], best: list[Row]) -> str:
    counted = [
        name
        for key, name in _PARTS.items()
        if any((row.get(key) or 0) > 0 for row in rows)
    ]
    parts = [
        f"The front, where no row is both faster and more accurate: {_names(best)}."
    ]
    if counted:
        parts.append(
            f"Counted into the seconds: {', '.join(counted)}. "
            "Not counted: compilation, evaluation."
        )
    parts.append(
        "Means over the seeds: a lead on the front may be noise, see the table. "
        "The larger a marker, the larger the budget."
    )
    return " ".join(parts)


def _names(best: list[Row]) -> str:
    return "; ".join(f"{i} {row.get('name', '')}" for i, row in enumerate(best, 1))


def _tables(run: Run, rows: list[Row], best: list[Row]) -> list[Block]:
    found = {id(row): _against_random(run, rows, row) for row in rows}
    tested = [d for d in found.values() if d is not None and d.half is not None]
    groups = by_rule(rows)
    notes = [""] * (len(groups) - 1) + [_note(len(tested)) + _absent(rows)]
    blocks: list[Block] = []
    for (rule, group), note in zip(groups.items(), notes):
        group = sorted(group, key=budget)
        body = tuple(_line(row, rows, row in best, found[id(row)]) for row in group)
        blocks.append(Text(f"Each choice against chance, {rule}:"))
        blocks.append(Table(_header(rows), body, note=note))
    return blocks


def _header(rows: list[Row]) -> tuple[str, ...]:
    return (
        "Choice / budget",
        f"{label(_KEY)} (%)",
        "Minus random",
        "Against random",
        "Time (s)",
        *(["TFLOP"] if _has_flops(rows) else []),
    )


def _line(
    row: Row, rows: list[Row], leads: bool, found: Difference | None
) -> tuple[Cell, ...]:
    half = half_interval(row, _KEY)
    against, verdict = Cell("–"), "–"
    if found is not None:
        spread = "" if found.half is None else percent(found.half)
        against, verdict = Cell(f"{100 * found.mean:+.1f}", spread), found.verdict
    elif random_of(rows, row) is row:
        verdict = "the reference"
    return (
        Cell(short_name(row), tag="front" if leads else ""),
        Cell(percent(row[_KEY]), "" if half is None else percent(half)),
        against,
        Cell(verdict),
        Cell(f"{row['total_seconds']:,.1f}"),
        *([cell(row, "flops")] if _has_flops(rows) else []),
    )


def _against_random(run: Run, rows: list[Row], row: Row) -> Difference | None:
    reference = random_of(rows, row)
    if reference is None or reference is row:
        return None
    return difference(run, row, reference, _KEY)


def _has_flops(rows: list[Row]) -> bool:
    return any(is_number(row.get("flops")) for row in rows)


def _absent(rows: list[Row]) -> str:
    """The choices and budgets that only some of the rules have."""
    names = {
        rule: list(map(short_name, group)) for rule, group in by_rule(rows).items()
    }
    every = dict.fromkeys(name for group in names.values() for name in group)
    parts = []
    for rule, group in names.items():
        absent = ", ".join(name for name in every if name not in group)
        parts += [f" Without a network at {rule}: {absent}."] if absent else []
    return "".join(parts)


def _note(tested: int) -> str:
    note = (
        "±: half of the 95% interval over seeds (Student's t). Minus random: the mean "
        "over seeds of the difference, in points of accuracy, to the choice by chance "
        "with the same budget, rule and seed; – where there is none. "
        "Not distinguishable: the 95% interval of the difference holds zero."
    )
    if tested > 1:
        by_chance = quantity(round(0.05 * tested, 1))
        note += (
            f" Of {tested} such intervals about {by_chance} leave zero out by luck "
            "where nothing differs."
        )
    return note
