"""How fast accuracy falls as the attacker is given more room."""

from jaxrobust.report import style
from jaxrobust.report.numbers import is_number, label, percent, quantity, radius
from jaxrobust.report.page import Block, Cell, Picture, Pictures, Section, Table
from jaxrobust.report.radius_curve import RadiusCurve, mean_curve
from jaxrobust.report.run import Row, Run

_ROOM = 2.5  # a last radius more than this many times the one before is not drawn


def radius_curves(run: Run) -> Section | None:
    """Accuracy against eps, one line a network; radii that fool, where searched."""
    # No room is no attack: at eps 0 it is the clean accuracy.
    curves = {
        name: mean_curve(rows, "eps_curve", at_zero="clean_acc")
        for name, rows in run.runs_by_name.items()
    }
    curves = {name: curve for name, curve in curves.items() if curve}
    blocks: list[Block] = [_pictures(run, curves)] if curves else []
    table = _smallest(run)
    if table is not None:
        blocks.append(table)
    return Section("Accuracy against the radius", tuple(blocks)) if blocks else None


def farthest(curves: dict[str, RadiusCurve]) -> float | None:
    """The last radius, where drawing it would squeeze all the others together."""
    radii = sorted({eps for curve in curves.values() for eps in curve})
    if len(radii) > 2 and radii[-1] > _ROOM * radii[-2]:
        return radii[-1]
    return None


def _pictures(run: Run, curves: dict[str, RadiusCurve]) -> Pictures:
    first = run.runs[0]
    norm, eps = str(first.get("norm", "")), first.get("eps")
    eps = float(eps) if is_number(eps) else None
    looks = {n: style.LOOKS[i % len(style.LOOKS)] for i, n in enumerate(curves)}
    beyond = farthest(curves)
    suite = {name: _mean(run.runs_by_name[name], "aa_acc") for name in curves}
    plot = _plot(curves, looks, suite, beyond, norm, eps)
    items = [plot]
    if len(looks) > 1:
        key = style.key_figure("Networks", looks)
        items.append(Picture("robustness-key", key, "Colour of every network"))
    seeds = any(len(rows) > 1 for rows in run.runs_by_name.values())
    parts = [f"Accuracy under APGD at each radius{', the mean over seeds' * seeds}."]
    if eps is not None:
        parts.append(f"The upright line is the threat, {norm} eps {radius(eps, norm)}.")
        if any(value is not None for value in suite.values()):
            parts.append(f"Rings on it: {label('aa_acc', run.runs)}, the worst case.")
    if beyond is not None:
        parts.append(_beyond(curves, beyond))
    return Pictures(tuple(items), " ".join(parts))


def _plot(curves, looks, suite, beyond, norm: str, eps: float | None) -> Picture:
    steps = eps is not None and "/" in radius(eps, norm)
    scale = 255 if steps else 1
    title = f"Accuracy against eps{f' ({norm})' if norm else ''}"
    figure = style.canvas(style.HALF, 300)
    axes = style.panel(figure, title, right=16)
    style.rule(axes, "y")
    for name, curve in curves.items():
        color, dash = looks[name]
        radii = [e for e in curve if e != beyond]
        axes.plot(
            [scale * e for e in radii], [100 * curve[e] for e in radii], color=color,
            linestyle=dash, linewidth=style.px(1.4), marker="o",
            markersize=style.px(3.5), alpha=0.9, clip_on=False,
        )  # fmt: skip
        if eps is not None and suite[name] is not None:
            axes.plot(
                scale * eps, 100 * suite[name], marker="o", markersize=style.px(8),
                markerfacecolor="none", markeredgecolor=color,
                markeredgewidth=style.px(1.4), clip_on=False, zorder=5,
            )  # fmt: skip
    if eps is not None:
        _threat(axes, scale * eps, radius(eps, norm))
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    style.name_axes(axes, x="eps (1/255)" if steps else "eps", y="accuracy (%)")
    alt = "Accuracy of every network against the radius of the attack"
    return Picture("robustness-curve", figure, alt)


def _threat(axes, at: float, text: str) -> None:
    axes.axvline(at, color=style.MUTED, linewidth=style.px(1), zorder=1)
    axes.annotate(
        f"eps {text}", (at, 1), xycoords=("data", "axes fraction"),
        xytext=(style.px(4), -style.px(2)), textcoords="offset points", va="top",
        size=style.px(11), color=style.MUTED,
    )  # fmt: skip


def _beyond(curves: dict[str, RadiusCurve], eps: float) -> str:
    values = {n: percent(c[eps]) for n, c in curves.items() if eps in c}
    if len(set(values.values())) == 1:
        found = f"{min(values.values())}%"
    else:
        found = ", ".join(f"{name} {value}%" for name, value in values.items())
    return f"Not drawn, at eps {quantity(eps)}: {found}."


def _smallest(run: Run) -> Table | None:
    """Quantiles of the smallest radius that fooled, for networks that have them."""
    found = {}
    for name, rows in run.runs_by_name.items():
        known = (rows[0].get("minimum_eps") or {}).get("quantiles")
        if known:
            found[name] = {float(share): eps for share, eps in known}
    if not found:
        return None
    norm = str(run.runs[0].get("norm", ""))
    shares = sorted({share for levels in found.values() for share in levels})
    body = tuple(
        (Cell(name), *(_radius_cell(levels.get(share), norm) for share in shares))
        for name, levels in found.items()
    )
    note = (
        "The radius within which PGD fools this share of the images, of the first "
        "seed; – where the search ended first."
    )
    header = ("Smallest eps that fools", *(f"{100 * s:g}%" for s in shares))
    return Table(header, body, note=note)


def _radius_cell(eps: object, norm: str) -> Cell:
    return Cell(radius(eps, norm) if is_number(eps) else "–")


def _mean(rows: list[Row], key: str) -> float | None:
    values = [float(row[key]) for row in rows if is_number(row.get(key))]
    return sum(values) / len(values) if values else None
