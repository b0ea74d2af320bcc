"""Which generated images were thrown away, and what their labelers made of them."""

from jaxrobust.report import style
from jaxrobust.report.numbers import percent, quantity
from jaxrobust.report.page import Block, Cell, Picture, Pictures, Section, Table, Text
from jaxrobust.report.run import Run, Selection

_MOST, _MOST_CLASSES = 24, 20


def filtered_images(run: Run) -> Section | None:
    """Counts by class, and examples, of a pool that was labelled and filtered."""
    shown = next((s for s in run.selections if "filter" in s.info), None)
    if shown is None:
        return None
    blocks: list[Block] = [Text(_summary(shown)), _counts(shown)]
    data = shown.images()
    if len(data.get("image", ())):
        caption = "Under each image the label in use, then what each labeler read."
        blocks.insert(1, Pictures((_sheet(shown, data),), caption))
    return Section("Labels of the generated images", tuple(blocks))


def _summary(shown: Selection) -> str:
    info = shown.info
    thrown = info["candidates"] - info["kept"]
    parts = [
        f"Filter {info['filter']['name']}: {quantity(thrown)} of "
        f"{quantity(info['candidates'])} images ({percent(thrown / info['candidates'])}"
        "%) were thrown away."
    ]
    if "labelers_agree" in info:
        parts.append(f"Labelers agree on {percent(info['labelers_agree'])}%.")
    if "first_labeler_agrees" in info:
        share = percent(info["first_labeler_agrees"])
        parts.append(f"The first one reads the generator's label in {share}%.")
    return " ".join(parts)


def _counts(shown: Selection) -> Table:
    kept, thrown = shown.info["kept_per_class"], shown.info["thrown_per_class"]
    names = sorted(kept, key=lambda name: -thrown[name])[:_MOST_CLASSES]
    rows = tuple(
        (Cell(name), Cell(quantity(kept[name])), Cell(quantity(thrown[name])))
        for name in names
    )
    note = "" if len(names) == len(kept) else f"The {len(names)} that lost most."
    return Table(("class", "kept", "thrown away"), rows, note=note)


def _sheet(shown: Selection, data: dict) -> Picture:
    images = data["image"][:_MOST]
    title = "Thrown away, the least likely first"
    texts = [_caption(shown, data, i) for i in range(len(images))]
    figure = style.tile_sheet(title, images, texts)
    return Picture("filtered", figure, f"{title}: {len(images)} examples", True)


def _caption(shown: Selection, data: dict, i: int) -> str:
    name = lambda key: style.shorten(shown.class_name(data[key][i]), 5)
    read = [name(key) for key in ("label1", "label2") if key in data]
    return f"{name('label')}\n{' · '.join(read)}".strip()
