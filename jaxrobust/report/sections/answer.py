"""What was asked and what came out, in words."""

from jaxrobust.report.page import Section, Text
from jaxrobust.report.run import Run


def answer(run: Run) -> Section | None:
    """The question and the answer that the task wrote into results.json."""
    blocks = tuple(
        Text(str(run.results[kind]), kind)
        for kind in ("question", "answer")
        if run.results.get(kind)
    )
    return Section("", blocks) if blocks else None
