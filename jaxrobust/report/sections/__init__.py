"""The sections of the page, in order. A new one is one leaf and one line here."""

from collections.abc import Callable

from jaxrobust.report.page import Section
from jaxrobust.report.run import Run
from jaxrobust.report.sections.accuracy import accuracy_dots
from jaxrobust.report.sections.answer import answer
from jaxrobust.report.sections.checks import failed_checks, passed_checks
from jaxrobust.report.sections.curves import training_curves
from jaxrobust.report.sections.generated import generated_images
from jaxrobust.report.sections.images import image_grids
from jaxrobust.report.sections.provenance import configuration, provenance, run_again
from jaxrobust.report.sections.results import results
from jaxrobust.report.sections.scores import score_scatter
from jaxrobust.report.sections.timing import time_split

SECTIONS: tuple[Callable[[Run], Section | None], ...] = (
    failed_checks,
    answer,
    results,
    accuracy_dots,
    training_curves,
    score_scatter,
    image_grids,
    generated_images,
    time_split,
    passed_checks,
    provenance,
    run_again,
    configuration,
)
