"""How many images keep their answer for certain, and how far."""

from jaxrobust.report import style
from jaxrobust.report.numbers import cell, is_number, percent, quantity, radius
from jaxrobust.report.page import Cell, Picture, Pictures, Section, Table
from jaxrobust.report.radius_curve import RadiusCurve, mean_curve
from jaxrobust.report.run import Row, Run


def certified_curves(run: Run) -> Section | None:
    """Certified accuracy against the l2 radius, one line a network, and a table."""
    names = run.runs_by_name
    curves = {n: mean_curve(rows, "certified_curve", "") for n, rows in names.items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return None
    blocks = (_pictures(run, curves), _table(run, tuple(curves)))
    return Section("Certified accuracy", blocks)


def _pictures(run: Run, curves: dict[str, RadiusCurve]) -> Pictures:
    looks = {n: style.LOOKS[i % len(style.LOOKS)] for i, n in enumerate(curves)}
    figure = style.canvas(style.HALF, 300)
    axes = style.panel(figure, "Certified accuracy against the radius", right=16)
    style.rule(axes, "y")
    for name, curve in curves.items():
        color, dash = looks[name]
        axes.plot(
            list(curve), [100 * value for value in curve.values()], color=color,
            linestyle=dash, linewidth=style.px(1.6), alpha=0.9, clip_on=False,
        )  # fmt: skip
    first = run.runs_by_name[next(iter(curves))][0]
    at = first.get("l2_radius")
    farthest = max(map(max, curves.values()))
    if is_number(at) and at <= farthest:
        axes.axvline(at, color=style.MUTED, linewidth=style.px(1), zorder=1)
    axes.set_xlim(0, farthest)
    axes.set_ylim(0, 100)
    style.name_axes(axes, x="l2 radius", y="certified accuracy (%)")
    alt = "Certified accuracy of every network against the l2 radius"
    items = [Picture("certified-curve", figure, alt)]
    if len(looks) > 1:
        key = style.key_figure("Networks", looks)
        items.append(Picture("certified-key", key, "Colour of every network"))
    return Pictures(tuple(items), _caption(run, first))


def _caption(run: Run, row: Row) -> str:
    several = any(len(rows) > 1 for rows in run.runs_by_name.values())
    parts = [
        "The share of test images whose smoothed classification is right and certain "
        f"not to change within the radius{', the mean over seeds' * several}."
    ]
    names = ("sigma", "n0", "n", "alpha")
    if all(is_number(row.get(name)) for name in names):
        said = ", ".join(f"{name} {quantity(row[name])}" for name in names)
        parts.append(
            f"Gaussian noise, {said}: each certificate is wrong with probability at "
            "most alpha. The curve ends where n draws can prove no more."
        )
    if is_number(row.get("l2_radius")):
        parts.append(f"Upright line: l2 {quantity(row['l2_radius'])}{_ball(row)}.")
    return " ".join(parts)


def _ball(row: Row) -> str:
    norm, eps = str(row.get("norm", "")), row.get("eps")
    if norm in ("", "l2") or not is_number(eps):
        return ""
    return f", which holds the {norm} ball of eps {radius(eps, norm)}"


def _table(run: Run, names: tuple[str, ...]) -> Table:
    tables = {n: mean_curve(run.runs_by_name[n], "certified_at", "") for n in names}
    radii = sorted({r for table in tables.values() for r in table})
    means = {str(row.get("name", "")): row for row in run.rows}
    body = tuple(
        (
            Cell(name),
            *(cell(means.get(name, {}), key) for key in ("radius", "abstained")),
            *(Cell(_percent(tables[name].get(r))) for r in radii),
        )
        for name in names
    )
    header = ("Certified at l2", "Average radius", "Abstained")
    note = (
        "Accuracies in percent; an abstention is wrong. The average radius counts 0 "
        "for images that are classified wrong."
    )
    return Table((*header, *(f"{r:.4g}" for r in radii)), body, note=note)


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value)
