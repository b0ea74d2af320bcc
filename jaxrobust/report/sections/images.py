"""What went and what came: images that were dropped and generated ones that came in."""

import numpy as np

from jaxrobust.report import style
from jaxrobust.report.page import Picture, Pictures, Section
from jaxrobust.report.run import Run, Selection

_COLUMNS, _MOST = 6, 24
_TILE, _GAP = 64, 9  # CSS pixels
_LABEL_GRAY = "#7A7A7A"  # legible on white and on the dark page alike


def image_grids(run: Run) -> Section | None:
    """Two sheets of images, from the last selection of the first seed that kept any."""
    found = ((s, s.images()) for s in run.latest_selections)
    shown, data = next((pair for pair in found if pair[1]), (None, {}))
    if shown is None:
        return None
    titles = {"dropped": "Dropped originals", "entered": "Generated, came in"}
    pictures = tuple(
        _sheet(shown, data, group, title)
        for group, title in titles.items()
        if len(data.get(group, ()))
    )
    if not pictures:
        return None
    caption = f"Selection {shown.name}: under each image its label and its score."
    return Section("Images that went and came", (Pictures(pictures, caption),))


def _sheet(shown: Selection, data: dict, group: str, title: str) -> Picture:
    images = data[group][:_MOST]
    names = _labels(shown, data, group, len(images))
    rows = -(-len(images) // _COLUMNS)
    pitch = (_TILE + _GAP, _TILE + 36)
    figure = style.canvas(style.HALF, 28 + rows * pitch[1], transparent=True)
    width, height = style.css_size(figure)
    figure.text(
        0, 1 - 4 / height, title, size=style.px(13), weight="bold", va="top",
        color=_LABEL_GRAY,
    )  # fmt: skip
    for i, image in enumerate(images):
        left, top = (i % _COLUMNS) * pitch[0], 28 + (i // _COLUMNS) * pitch[1]
        tile = enlarge(image, 2 * _TILE)
        figure.figimage(tile, 2 * left, 2 * (height - top) - tile.shape[0])
        figure.text(
            (left + _TILE / 2) / width,
            1 - (top + _TILE + 3) / height,
            style.plain(names[i]),
            size=style.px(10.5),
            linespacing=1.15,
            ha="center",
            va="top",
            color=_LABEL_GRAY,
        )
    return Picture(f"images-{group}", figure, f"{title}: {len(images)} examples", True)


def enlarge(image: np.ndarray, side: int) -> np.ndarray:
    """uint8[h,w,c] as uint8[side,side,3], by nearest neighbours; gray becomes RGB."""
    image = image if image.ndim == 3 else image[..., None]
    rows = np.arange(side) * image.shape[0] // side
    columns = np.arange(side) * image.shape[1] // side
    image = image[rows][:, columns]
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]


def _labels(shown: Selection, data: dict, group: str, count: int) -> list[str]:
    labels, scores = data.get(f"{group}_label"), data.get(f"{group}_score")
    lines = []
    for i in range(count):
        name = shown.class_name(labels[i]) if labels is not None else ""
        score = f"{scores[i]:.3f}" if scores is not None else ""
        lines.append(f"{style.shorten(name, 11)}\n{score}".strip())
    return lines
