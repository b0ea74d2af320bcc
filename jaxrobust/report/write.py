"""From a run directory to `report.html`, `report.md` and `figures/*.png`."""

from pathlib import Path

from jaxrobust.files import write_atomic
from jaxrobust.report import html_page, markdown_page
from jaxrobust.report.page import Section, pictures_of
from jaxrobust.report.run import Run, read_run
from jaxrobust.report.sections import SECTIONS
from jaxrobust.report.style import png_bytes


def write_report(workdir: str | Path) -> Path:
    """Read the run directory `workdir`, (re)write its report, return `report.html`.

    Reads config.json and results.json, and where present metrics.jsonl, card.json,
    selections/ and evaluation/. The same run directory gives the same bytes.

    Raises:
      UserError: a needed file is missing or cannot be read.
    """
    workdir = Path(workdir)
    run = read_run(workdir)
    sections = build_sections(run)
    images = {p.name: png_bytes(p.figure) for p in pictures_of(sections)}

    title = str(run.results.get("title", "Report"))
    figures = workdir / "figures"
    figures.mkdir(exist_ok=True)
    for name, data in images.items():
        write_atomic(figures / f"{name}.png", data)
    markdown = markdown_page.render(title, sections)
    write_atomic(workdir / "report.md", markdown.encode())
    page = html_page.render(title, sections, images)
    write_atomic(workdir / "report.html", page.encode())
    return workdir / "report.html"


def build_sections(run: Run) -> list[Section]:
    """The sections of `SECTIONS` whose data this run has, in order."""
    built = (section(run) for section in SECTIONS)
    return [section for section in built if section is not None]
