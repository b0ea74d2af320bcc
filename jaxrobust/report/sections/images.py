"""What went and what came: images that were dropped and generated ones that came in."""

from jaxrobust.report import style
from jaxrobust.report.page import Picture, Pictures, Section
from jaxrobust.report.run import Run, Selection

_MOST = 24


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
    texts = _labels(shown, data, group, len(images))
    figure = style.tile_sheet(title, images, texts)
    return Picture(f"images-{group}", figure, f"{title}: {len(images)} examples", True)


def _labels(shown: Selection, data: dict, group: str, count: int) -> list[str]:
    labels, scores = data.get(f"{group}_label"), data.get(f"{group}_score")
    lines = []
    for i in range(count):
        name = shown.class_name(labels[i]) if labels is not None else ""
        score = f"{scores[i]:.3f}" if scores is not None else ""
        lines.append(f"{style.shorten(name, 11)}\n{score}".strip())
    return lines
