"""What learning from fewer images costs: accuracy against the share selected."""

import json
from dataclasses import dataclass, replace
from itertools import cycle
from os.path import commonprefix

from jaxrobust.report import style
from jaxrobust.report.in_batch import learns_all, selector
from jaxrobust.report.numbers import is_number, label, percent, seed_count
from jaxrobust.report.page import Picture, Pictures, Section, slug
from jaxrobust.report.run import Row, Run

_KEYS = ("clean_acc", "pgd_acc")
_FEWEST_SHARES = 3
_ROOM = 2  # a reference farther off than this many times the sweeps' range is words
_MEASURES = ("keep", "count_minimum")  # options that do not make another method
_SWEEP_COLORS = (style.BLUE, style.ORANGE, style.GREEN, style.AMBER)
_PLAIN_COLORS = (style.GRAY, style.PINK, style.SKY)


@dataclass(frozen=True)
class _Line:
    """A sweep of several rows, or one row that learns from the `whole` batch."""

    name: str
    rows: list[Row]
    color: str
    whole: bool

    @property
    def look(self) -> tuple:
        """Colour and dash."""
        return self.color, style.DASHES[self.whole]


def selection_sweep(run: Run) -> Section | None:
    """Clean and PGD accuracy against P_up, next to learning from everything.

    Ref: data selection for adversarial training, figure 3.
    """
    found = sweeps(run)
    keys = [
        key
        for key in _KEYS
        if any(is_number(row.get(key)) for rows in found.values() for row in rows)
    ]
    if not keys:
        return None
    lines = [
        _Line(name, rows, color, False)
        for (name, rows), color in zip(found.items(), cycle(_SWEEP_COLORS))
    ]
    whole = [row for row in run.rows if learns_all(row)]
    lines += [
        _Line(str(row.get("name", "")), [row], color, True)
        for row, color in zip(whole, cycle(_PLAIN_COLORS))
    ]
    drawn = {key: _on_scale(lines, key) for key in keys}
    pictures = tuple(_plot(key, drawn[key]) for key in keys)
    caption = _caption(lines, drawn)
    return Section(
        "Accuracy against the share selected", (Pictures(pictures, caption),)
    )


def sweeps(run: Run) -> dict[str, list[Row]]:
    """{name: rows by `keep`} of methods that differ in nothing but the share they keep.

    The configuration tells apart what shares a selector: another order, another attack.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in run.rows:
        if not learns_all(row) and is_number(row.get("keep")):
            groups.setdefault((selector(row), _rest_of(run, row)), []).append(row)
    found = [
        (name, sorted(rows, key=lambda row: row["keep"]))
        for (name, _), rows in groups.items()
        if len({row["keep"] for row in rows}) >= _FEWEST_SHARES
    ]
    names = [name for name, _ in found]
    return {
        name if names.count(name) == 1 else f"{name}, {_stem(rows)}": rows
        for name, rows in found
    }


def _on_scale(lines: list[_Line], key: str) -> list[_Line]:
    """The sweeps, and the lines of `key` that are near enough to share their plot."""
    lines = [
        replace(line, rows=[row for row in line.rows if is_number(row.get(key))])
        for line in lines
    ]
    values = [row[key] for x in lines if not x.whole for row in x.rows]
    low, high = min(values), max(values)
    room = _ROOM * max(high - low, 0.02)
    near = lambda row: low - room <= row[key] <= high + room
    return [x for x in lines if x.rows and (not x.whole or near(x.rows[0]))]


def _rest_of(run: Run, row: Row) -> str:
    """The method of `row` as configured, printed, without the share it keeps."""
    method = str(row.get("name", "")).partition(" / ")[0]
    spec = (run.config.get("methods") or {}).get(method)
    if not isinstance(spec, dict):
        return ""
    select = {k: v for k, v in (spec.get("select") or {}).items() if k not in _MEASURES}
    return json.dumps({**spec, "select": select}, sort_keys=True, default=str)


def _stem(rows: list[Row]) -> str:
    """What the names of the rows begin with: `ds_30`, `ds_50` -> `ds`."""
    names = [str(row.get("name", "")).partition(" / ")[0] for row in rows]
    return commonprefix(names).rstrip("0123456789._-, ") or names[0]


def _plot(key: str, lines: list[_Line]) -> Picture:
    figure = style.canvas(style.HALF, 310)
    title = f"{label(key)} accuracy"
    room = style.foot_key(figure, {line.name: line.look for line in lines})
    axes = style.panel(figure, title, left=56, bottom=42 + room)
    style.rule(axes, "y")
    for line in lines:
        if line.whole:
            _draw_whole(axes, line, key)
        else:
            _draw_sweep(axes, line, key)
    axes.set_xlim(0, 1.03)
    style.name_axes(axes, x="share of the images learnt from, P_up", y="accuracy (%)")
    alt = f"{title} against the share of the images selected"
    return Picture(f"selection-sweep-{slug(key)}", figure, alt)


def _draw_whole(axes, line: _Line, key: str) -> None:
    (color, dash), (value, spread) = line.look, _percent(line.rows[0], key)
    axes.axhline(value, color=color, linestyle=dash, linewidth=style.px(1.6))
    if spread:
        axes.axhspan(value - spread, value + spread, color=color, alpha=0.1, lw=0)


def _draw_sweep(axes, line: _Line, key: str) -> None:
    pairs = [_percent(row, key) for row in line.rows]
    axes.errorbar(
        [row["keep"] for row in line.rows],
        [value for value, _ in pairs],
        yerr=[spread for _, spread in pairs] if any(s for _, s in pairs) else None,
        color=line.color,
        linewidth=style.px(1.6),
        elinewidth=style.px(1),
        capsize=style.px(3),
        marker="o",
        markersize=style.px(5.5),
    )


def _percent(row: Row, key: str) -> tuple[float, float]:
    spread = row.get(f"{key}_std")
    several = is_number(spread) and seed_count(row) > 1
    return 100 * row[key], 100 * float(spread or 0) if several else 0.0


def _caption(lines: list[_Line], drawn: dict[str, list[_Line]]) -> str:
    parts = []
    if any(seed_count(row) > 1 for line in lines for row in line.rows):
        parts.append("Mean over the seeds ± standard deviation.")
    else:
        parts.append("One seed a point: the differences may be noise.")
    if any(line.whole for found in drawn.values() for line in found):
        parts.append("Dashed: learnt from every image.")
    parts.append("The scale need not begin at 0.")
    away = {line.name: _away(line, drawn) for line in lines if line.whole}
    words = [f"{name} ({found})" for name, found in away.items() if found]
    if words:
        parts.append(f"Off the scale: {', '.join(words)}.")
    return " ".join(parts)


def _away(line: _Line, drawn: dict[str, list[_Line]]) -> str:
    """The accuracies of `line` whose plot leaves it out."""
    keys = [key for key, found in drawn.items() if line.name not in _names(found)]
    known = [key for key in keys if is_number(line.rows[0].get(key))]
    return ", ".join(f"{label(k)} {percent(line.rows[0][k])}%" for k in known)


def _names(lines: list[_Line]) -> set[str]:
    return {line.name for line in lines}
