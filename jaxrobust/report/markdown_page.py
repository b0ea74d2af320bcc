"""The page as markdown, with the figures linked from figures/."""

import html
from collections.abc import Iterable

from jaxrobust.report.page import (
    Block,
    Cell,
    Code,
    Fold,
    Pictures,
    Section,
    Table,
    Text,
)


def render(title: str, sections: list[Section]) -> str:
    """The whole report as markdown text."""
    parts = [f"# {_text(title)}"]
    for section in sections:
        if section.title:
            parts.append(f"## {_text(section.title)}")
        parts.extend(_blocks(section.blocks))
    return "\n\n".join(parts) + "\n"


def _blocks(blocks: Iterable[Block]) -> list[str]:
    return [_block(block) for block in blocks]


def _block(block: Block) -> str:
    match block:
        case Text():
            return _paragraph(block)
        case Table():
            return _table(block)
        case Code():
            # Indented rather than fenced: no line of the text can end the block.
            return "\n".join(f"    {line}" for line in block.text.splitlines())
        case Pictures():
            return _pictures(block)
        case Fold():
            inner = "\n\n".join(_blocks(block.blocks))
            summary = f"<summary>{_text(block.summary)}</summary>"
            return f"<details>{summary}\n\n{inner}\n\n</details>"


def _paragraph(block: Text) -> str:
    text = _text(block.text)
    marks = {"question": f"*{text}*", "answer": f"> {text}", "alert": f"> **{text}**"}
    return marks.get(block.kind, text)


def _table(table: Table) -> str:
    count = len(table.header)
    rule = ["---" if i < table.text_columns else "---:" for i in range(count)]
    rows = [[_text(name) for name in table.header], rule]
    rows += [[_cell(cell) for cell in row] for row in table.rows]
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{lines}\n\n{_text(table.note)}" if table.note else lines


def _cell(cell: Cell) -> str:
    text = _text(cell.text)
    text = f"**{text}**" if cell.best else text
    text += f" ± {_text(cell.spread)}" if cell.spread else ""
    return text + (f" ({_text(cell.tag)})" if cell.tag else "")


def _pictures(block: Pictures) -> str:
    links = [f"![{_text(p.alt)}](figures/{p.name}.png)" for p in block.items]
    return "\n".join(links) + f"\n\n{_text(block.caption)}"


def _text(text: str) -> str:
    """Text on one line that neither markdown nor html in it can take apart."""
    text = html.escape(" ".join(text.split()), quote=False)
    for mark in "\\`*_[]|":
        text = text.replace(mark, f"\\{mark}")
    return text
