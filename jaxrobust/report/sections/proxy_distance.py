"""How far generated images are from the data, and what that says of robustness."""

from collections.abc import Iterable

from jaxrobust.files import read_json
from jaxrobust.report import style
from jaxrobust.report.numbers import is_number, percent, quantity
from jaxrobust.report.page import (
    Block,
    Cell,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    slug,
)
from jaxrobust.report.run import Row, Run

_MOST_SPACES, _MOST_CLASSES = 4, 20
_ROOM = 20  # a bound this many times the largest difference wants a log scale


def proxy_distance(run: Run) -> Section | None:
    """CWD by class, the two sides of theorem 1, Frechet distances and ARC."""
    if run.folder is None or not (run.folder / "proxy.json").is_file():
        return None
    found = read_json(run.folder / "proxy.json")
    blocks: list[Block] = []
    if found.get("spaces"):
        blocks.append(_distances(found))
    if found.get("transfer"):
        blocks.append(_theorem(found))
    blocks += [table for table in (_networks(found), _spaces(found)) if table]
    if found.get("arc"):
        blocks.append(_discrimination(found["arc"]))
    return Section("Generated images against real ones", tuple(blocks))


def _distances(found: Row) -> Pictures:
    spaces = found["spaces"][:_MOST_SPACES]
    pictures = tuple(_per_class(i, space) for i, space in enumerate(spaces))
    parts = [
        "Wasserstein-1 distance between real and generated images of each class. "
        "Upright marks: between two halves of the real images, what chance alone "
        "leaves (with half as many images, so rather too large)."
    ]
    if not all(space["exact"] for space in spaces):
        parts.append("Not exact everywhere: upper bounds of an entropic plan.")
    if len(spaces) < len(found["spaces"]):
        parts.append(f"The first {len(spaces)} of {len(found['spaces'])} spaces.")
    return Pictures(pictures, " ".join(parts))


def _per_class(number: int, space: Row) -> Picture:
    values, floor = space["per_class"], space["floor_per_class"]
    names = sorted(values, key=lambda name: -values[name])
    title = f"Distance by class, {_space_name(space)}"
    if len(names) > _MOST_CLASSES:
        names = names[:_MOST_CLASSES]
        title += f" ({_MOST_CLASSES} largest)"
    figure = style.canvas(style.HALF, max(200, 76 + 21 * len(names)))
    axes = style.rows_panel(figure, style.shorten(title, 58), names, right=16)
    style.rule(axes, "x")
    bars = [values[name] for name in names]
    axes.barh(range(len(names)), bars, height=0.62, color=style.SKY, alpha=0.75)
    marks = [(floor[name], i) for i, name in enumerate(names) if name in floor]
    for at, i in marks:
        axes.plot([at, at], [i - 0.36, i + 0.36], color=style.ORANGE, lw=style.px(2))
    style.name_axes(axes, x=f"W1 in {space['norm']}")
    return Picture(f"proxy-{number}-{slug(space['space'])[:40]}", figure, title)


def _space_name(space: Row) -> str:
    return "pixels" if space["space"] == "pixels" else f"features of {space['space']}"


def _theorem(found: Row) -> Pictures:
    rows = found["transfer"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    colors = [look for look in style.LOOKS if look[0] != style.GRAY]
    looks = {name: colors[i % len(colors)] for i, name in enumerate(networks)}
    figure = style.canvas(style.HALF, 300)
    axes = style.panel(figure, "Change of robustness, and its bound", left=58, right=16)
    style.rule(axes, "y")
    log = _wants_log(rows)
    first = [row for row in rows if row["network"] == networks[0]]
    _line(axes, first, "bound", (style.GRAY, "-"), log)
    for name, look in looks.items():
        mine = [row for row in rows if row["network"] == name]
        _line(axes, mine, "difference", look, log)
    axes.set_xlim(0, 1)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    style.name_axes(axes, x="share of real images", y=f"distance ({found['norm']})")
    alt = "Bound and measured difference of robustness against the mixture"
    key = style.key_figure("Lines", {"bound": (style.GRAY, "-"), **looks})
    items = (
        Picture("proxy-theorem", figure, alt),
        Picture("proxy-theorem-key", key, "Colour of every network"),
    )
    return Pictures(items, _verdict(rows, log))


def _wants_log(rows: Iterable[Row]) -> bool:
    seen = [(row["bound"], row["difference"]) for row in rows if row["difference"] > 0]
    return bool(seen) and max(seen)[0] > _ROOM * max(low for _, low in seen)


def _line(axes, rows: list[Row], key: str, look: tuple, log: bool) -> None:
    # A log scale has no zero, which both sides reach where all images are real.
    points = [(r["original_share"], r[key]) for r in rows if r[key] > 0 or not log]
    if points:
        color, dash = look
        axes.plot(*zip(*points), color=color, linestyle=dash, lw=style.px(1.8))


def _verdict(rows: list[Row], log: bool) -> str:
    broken = sorted({row["network"] for row in rows if not row["holds"]})
    text = (
        "Measured difference of average robustness between the mixture and the real "
        "images, under its bound (1 - p) CWD."
    )
    if broken:
        text += (
            f" Above the bound for {', '.join(broken)}: the attack stayed above the "
            "true distances, which the theorem is about."
        )
    return text + " Where both are 0 nothing is drawn." * log


def _networks(found: Row) -> Table | None:
    rows = [row for row in found.get("networks") or [] if "rob_original" in row]
    if not rows:
        return None
    bound = found["spaces"][0]["cwd"]
    body = tuple(
        (
            Cell(row["network"]),
            Cell(percent(row["clean_acc_original"])),
            Cell(percent(row["clean_acc_generated"])),
            Cell(quantity(row["rob_original"])),
            Cell(quantity(row["rob_generated"])),
            Cell(quantity(abs(row["rob_original"] - row["rob_generated"]))),
            Cell(quantity(bound)),
        )
        for row in rows
    )
    header = ("Network", "Clean, real (%)", "Clean, generated (%)")
    header += ("Rob, real", "Rob, generated", "Difference", "CWD")
    return Table(header, body, note=_note(found, rows))


def _note(found: Row, rows: list[Row]) -> str:
    note = (
        f"Rob: mean {found['norm']} distance to the nearest adversarial image that an "
        "attack found, an upper bound of the true mean."
    )
    sides = ("not_found_original", "not_found_generated")
    missing = sum(row[side] for row in rows for side in sides)
    if missing:
        note += f" {missing} distances not found were borrowed from their class."
    if found["label_shift"] > 0:
        note += (
            f" Labels of the sets differ by {percent(found['label_shift'])}% (total "
            "variation): both are weighted to the real ones."
        )
    return note


def _spaces(found: Row) -> Table | None:
    """CWD and Frechet distance of every space, each beside its floor."""
    frechet = {row["network"]: row for row in found.get("frechet") or []}
    body = []
    for space in found.get("spaces") or []:
        other = frechet.get(space["space"], {})
        numbers = (space["cwd"], space["floor"], other.get("frechet"))
        cells = [_number(x) for x in (*numbers, other.get("floor"))]
        body.append((Cell(_space_name(space)), Cell(space["norm"]), *cells))
    if not body:
        return None
    header = ("Space", "Norm", "CWD", "Of halves", "Frechet", "Of halves")
    note = (
        f"Over {found['images']['compared']:,} images a side. The Frechet distance is "
        "on features of these networks: not the FID. Distances in features bound "
        "nothing in pixels."
    )
    return Table(header, tuple(body), text_columns=2, note=note)


def _number(value: object) -> Cell:
    return Cell(quantity(value) if is_number(value) else "–")


def _discrimination(arc: Row) -> Text:
    points = arc["points"]
    text = (
        f"Robust discrimination (ARC): {quantity(arc['area'])}, the area between the "
        f"accuracy of telling real from generated and 0.5, from eps "
        f"{quantity(points[0][0])} to {quantity(points[-1][0])} ({arc['norm']}); "
        f"accuracy {percent(points[0][1])}% at first, {percent(points[-1][1])}% at "
        "last."
    )
    return Text(text)
