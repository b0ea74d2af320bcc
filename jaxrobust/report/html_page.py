"""The page as one html file: style and figures inside, no script, nothing linked."""

import base64
from collections.abc import Iterable
from html import escape

from jaxrobust.report.css import CSS
from jaxrobust.report.page import (
    Block,
    Cell,
    Code,
    Fold,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    slug,
)
from jaxrobust.report.style import css_size


def render(title: str, sections: list[Section], images: dict[str, bytes]) -> str:
    """The whole report as html; `images` holds the PNG of each picture by name."""
    body = "\n".join(_section(section, images) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
<footer>Written by jaxrobust from the files of the run directory.</footer>
</main>
</body>
</html>
"""


def _section(section: Section, images: dict[str, bytes]) -> str:
    body = _blocks(section.blocks, images)
    if not section.title:
        return f"<section>\n{body}\n</section>"
    anchor, title = slug(section.title), escape(section.title)
    return f'<section id="{anchor}">\n<h2>{title}</h2>\n{body}\n</section>'


def _blocks(blocks: Iterable[Block], images: dict[str, bytes]) -> str:
    return "\n".join(_block(block, images) for block in blocks)


def _block(block: Block, images: dict[str, bytes]) -> str:
    match block:
        case Text():
            return f'<p class="{escape(block.kind)}">{escape(block.text)}</p>'
        case Table():
            return _table(block)
        case Code():
            return f"<pre>{escape(block.text)}</pre>"
        case Pictures():
            return _pictures(block, images)
        case Fold():
            summary = f"<summary>{escape(block.summary)}</summary>"
            inner = _blocks(block.blocks, images)
            return f"<details>{summary}\n{inner}\n</details>"


def _table(table: Table) -> str:
    kinds = ["" if i < table.text_columns else "n" for i in range(len(table.header))]
    rows = "\n".join(
        "<tr>" + "".join(_cell(c, k) for c, k in zip(row, kinds)) + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll"><table>\n{_head(table, kinds)}\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n{note}"
    )


def _head(table: Table, kinds: list[str]) -> str:
    if not any(table.header):
        return ""
    # A column with spreads has its title over the values, not over the spreads.
    spread = [any(row[i].spread for row in table.rows) for i in range(len(kinds))]
    cells = "".join(
        f'<th class="{kind}{" s" if wide else ""}" scope="col">{escape(name)}</th>'
        for name, kind, wide in zip(table.header, kinds, spread)
    )
    return f"<thead><tr>{cells}</tr></thead>"


def _cell(cell: Cell, kind: str) -> str:
    text = escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.best else text
    if cell.spread:
        text += f'<span class="spread">± {escape(cell.spread)}</span>'
    if cell.tag:
        text += f' <span class="tag">{escape(cell.tag)}</span>'
    return f'<td class="{kind}">{text}</td>'


def _pictures(block: Pictures, images: dict[str, bytes]) -> str:
    items = "\n".join(_picture(item, images[item.name]) for item in block.items)
    caption = f"<figcaption>{escape(block.caption)}</figcaption>"
    return f'<figure>\n<div class="row">\n{items}\n</div>\n{caption}\n</figure>'


def _picture(picture: Picture, png: bytes) -> str:
    width, height = css_size(picture.figure)
    data = base64.b64encode(png).decode()
    kind = "photo" if picture.photo else "chart"
    return (
        f'<img class="{kind}" width="{width}" height="{height}" '
        f'alt="{escape(picture.alt)}" src="data:image/png;base64,{data}">'
    )
