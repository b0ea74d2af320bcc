"""The parts of a page, free of any markup: html and markdown are two views of them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """A table cell: `spread` is what follows +-, `tag` a small word after the text."""

    text: str
    spread: str = ""
    best: bool = False
    tag: str = ""


@dataclass(frozen=True)
class Table:
    """The first `text_columns` columns are words, the others numbers.

    A header of empty words is not shown.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    text_columns: int = 1
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph; `kind` is `plain`, `question`, `answer` or `alert`."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Code:
    """Text that is copied or compared character by character."""

    text: str


@dataclass(frozen=True)
class Picture:
    """`photo` says that the colours are data: dark mode must leave them as they are."""

    name: str
    figure: Figure
    alt: str
    photo: bool = False


@dataclass(frozen=True)
class Pictures:
    """Figures that belong together, side by side where the page is wide enough."""

    items: tuple[Picture, ...]
    caption: str


@dataclass(frozen=True)
class Fold:
    """Blocks that stay closed until the reader opens them."""

    summary: str
    blocks: "tuple[Block, ...]"


Block = Text | Table | Code | Pictures | Fold


@dataclass(frozen=True)
class Section:
    """A part of the page; an empty title puts the blocks under the page's own title."""

    title: str
    blocks: tuple[Block, ...]


def pictures_of(sections: Iterable[Section]) -> Iterator[Picture]:
    """Every picture of the page, in order."""
    for section in sections:
        yield from _pictures(section.blocks)


def slug(text: str) -> str:
    """A file name or anchor out of any text: lower case, words joined by `-`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def _pictures(blocks: Iterable[Block]) -> Iterator[Picture]:
    for block in blocks:
        if isinstance(block, Pictures):
            yield from block.items
        elif isinstance(block, Fold):
            yield from _pictures(block.blocks)
