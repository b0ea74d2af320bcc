"""One look for every figure: sizes in CSS pixels, colour-blind safe, thin lines.

Figures are drawn with matplotlib's object interface only, so nothing global is set.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito's colours, without the yellow that vanishes on white.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PINK, AMBER, SKY, GRAY = "#CC79A7", "#E69F00", "#56B4E9", "#7A7F87"
PALETTE = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, GRAY)
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
LOOKS = tuple((color, dash) for dash, color in product(DASHES, PALETTE))
INK, MUTED, RULE = "#24292F", "#5B636D", "#DDE1E6"
ON_ANY = "#7A7A7A"  # text legible on white and on the dark page alike

HALF = 438  # two figures and a gap fill the page's column; one fills a phone's
_PER_INCH = 100  # CSS pixels an inch: the other sizes follow from it
_SHARP = 2  # device pixels a CSS pixel


def px(size: float) -> float:
    """CSS pixels as matplotlib points."""
    return size * 72 / _PER_INCH


def canvas(width: float, height: float, transparent: bool = False) -> Figure:
    """An empty figure of `width` x `height` CSS pixels."""
    size = (width / _PER_INCH, height / _PER_INCH)
    face = "none" if transparent else "white"
    return Figure(figsize=size, dpi=_PER_INCH * _SHARP, facecolor=face)


def panel(
    figure: Figure, title: str, left: float = 46, bottom: float = 40, right: float = 12
) -> Axes:
    """The one plot of `figure`: margins in CSS pixels, title above on the left."""
    width, height = css_size(figure)
    top = 30
    box = (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - top - bottom) / height,
    )
    axes = figure.add_axes(box)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=MUTED, linewidth=px(0.8))
    axes.tick_params(
        length=px(3), width=px(0.8), color=MUTED, labelcolor=INK, labelsize=px(11.5)
    )
    axes.set_axisbelow(True)
    figure.text(
        0,
        1 - 5 / height,
        plain(title),
        size=px(13),
        weight="bold",
        color=INK,
        va="top",
    )
    return axes


def rows_panel(
    figure: Figure, title: str, names: list[str], bottom: float = 40, right: float = 12
) -> Axes:
    """A plot with one named row a line, the first on top, and room for the names."""
    names = [shorten(name) for name in names]
    width = max((len(name) for name in names), default=0)
    axes = panel(figure, title, left=18 + 6.9 * width, bottom=bottom, right=right)
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return axes


def name_axes(axes: Axes, x: str = "", y: str = "") -> None:
    """Title the axes in the quiet colour."""
    axes.set_xlabel(plain(x), size=px(11.5), color=MUTED)
    axes.set_ylabel(plain(y), size=px(11.5), color=MUTED)


def rule(axes: Axes, axis: str) -> None:
    """Faint lines across the plot, to read values off `axis` (`x` or `y`)."""
    axes.grid(axis=axis, color=RULE, linewidth=px(0.8))  # pyright: ignore[reportArgumentType]


def key(axes: Axes, **place) -> None:
    """A legend of what was drawn with a label; its paper hides the rules behind it."""
    axes.legend(
        facecolor="white",
        edgecolor="none",
        framealpha=0.9,
        fontsize=px(11.5),
        labelcolor=INK,
        handletextpad=0.5,
        **place,
    )


def foot_key(figure: Figure, looks: Mapping) -> float:
    """A key of lines at the foot of `figure`, {name: (color, dash)}.

    Returns its height in CSS pixels: room that the plot must leave at the bottom.
    """
    names = [shorten(name) for name in looks]
    columns = 2 if max(map(len, names), default=0) > 12 else 3
    figure.legend(
        [
            Line2D([], [], color=color, linestyle=dash, linewidth=px(2))
            for color, dash in looks.values()
        ],
        [plain(name) for name in names],
        loc="lower center",
        ncols=min(columns, max(len(names), 1)),
        frameon=False,
        fontsize=px(11.5),
        labelcolor=INK,
        handletextpad=0.5,
        borderaxespad=0.2,
    )
    return 8 + 18.5 * -(-len(names) // columns)


def key_figure(title: str, looks: Mapping) -> Figure:
    """A figure that is only a key: the line of every name, {name: (color, dash)}."""
    columns = 1 if len(looks) <= 11 else 2
    figure = canvas(HALF, 44 + 18.5 * -(-len(looks) // columns))
    axes = panel(figure, title, left=0, right=0, bottom=0)
    axes.set_axis_off()
    handles = [
        Line2D([], [], color=color, linestyle=dash, linewidth=px(2))
        for color, dash in looks.values()
    ]
    axes.legend(
        handles,
        [plain(shorten(name, 24)) for name in looks],
        loc="upper left",
        ncols=columns,
        frameon=False,
        fontsize=px(12),
        labelcolor=INK,
        borderaxespad=0,
    )
    return figure


def sheet(width: float, height: float, title: str) -> Figure:
    """A see-through figure for images, its title above on the left."""
    figure = canvas(width, height, transparent=True)
    figure.text(
        0, 1 - 4 / height, plain(title), size=px(13), weight="bold", va="top",
        color=ON_ANY,
    )  # fmt: skip
    return figure


def place(
    figure: Figure, image: np.ndarray, left: int, top: int, side: int, text: str
) -> None:
    """Show an image u8[h,w,c] as a square of `side` CSS pixels with `text` under it."""
    width, height = css_size(figure)
    tile = enlarge(image, _SHARP * side)
    figure.figimage(tile, _SHARP * left, _SHARP * (height - top) - tile.shape[0])
    figure.text(
        (left + side / 2) / width,
        1 - (top + side + 3) / height,
        plain(text),
        size=px(10.5),
        linespacing=1.15,
        ha="center",
        va="top",
        color=ON_ANY,
    )


def tile_sheet(title: str, images: np.ndarray, texts: Sequence[str]) -> Figure:
    """Images u8[N,h,w,c], each with its text under it, in rows under a title."""
    columns, side, top = 6, 64, 28
    across, down = side + 9, side + 36
    figure = sheet(HALF, top + down * -(-len(images) // columns), title)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        row, column = divmod(i, columns)
        place(figure, image, column * across, top + row * down, side, text)
    return figure


def enlarge(image: np.ndarray, side: int) -> np.ndarray:
    """uint8[h,w,c] as uint8[side,side,3], by nearest neighbours; gray becomes RGB."""
    image = image if image.ndim == 3 else image[..., None]
    rows = np.arange(side) * image.shape[0] // side
    columns = np.arange(side) * image.shape[1] // side
    image = image[rows][:, columns]
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]


def css_size(figure: Figure) -> tuple[int, int]:
    """Width and height in CSS pixels."""
    width, height = figure.get_size_inches() * _PER_INCH
    return round(width), round(height)


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def shorten(text: str, limit: int = 27) -> str:
    """`text` in at most `limit` characters, cut in the middle."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[-(limit - 1 - head) :]}"


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG, twice as fine as its CSS size and free of dates."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="png",
        dpi=_PER_INCH * _SHARP,
        facecolor=figure.get_facecolor(),
        metadata={"Software": None},
    )
    return buffer.getvalue()
