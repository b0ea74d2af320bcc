"""The sections of the page, in order. A new one is one leaf and one line here."""

from collections.abc import Callable

from jaxrobust.report.page import Section
from jaxrobust.report.run import Run
from jaxrobust.report.sections.accuracy import accuracy_dots
from jaxrobust.report.sections.answer import answer
from jaxrobust.report.sections.budget_curves import budget_curves
from jaxrobust.report.sections.certified import certified_curves
from jaxrobust.report.sections.checks import failed_checks, passed_checks
from jaxrobust.report.sections.curves import training_curves
from jaxrobust.report.sections.distilled import distilled_sets
from jaxrobust.report.sections.examples import fooled_examples
from jaxrobust.report.sections.filtered import filtered_images
from jaxrobust.report.sections.generated import generated_images
from jaxrobust.report.sections.images import image_grids
from jaxrobust.report.sections.pareto import pareto
from jaxrobust.report.sections.per_class import class_accuracies
from jaxrobust.report.sections.profile import phase_shares
from jaxrobust.report.sections.provenance import configuration, provenance, run_again
from jaxrobust.report.sections.proxy_distance import proxy_distance
from jaxrobust.report.sections.results import results
from jaxrobust.report.sections.robustness import radius_curves
from jaxrobust.report.sections.scale_curves import scale_curves
from jaxrobust.report.sections.scores import score_scatter
from jaxrobust.report.sections.selection_curves import selection_curves
from jaxrobust.report.sections.selection_sweep import selection_sweep
from jaxrobust.report.sections.timing import time_split
from jaxrobust.report.sections.worst_case import worst_case

SECTIONS: tuple[Callable[[Run], Section | None], ...] = (
    failed_checks,
    answer,
    budget_curves,
    pareto,
    distilled_sets,
    results,
    worst_case,
    radius_curves,
    certified_curves,
    class_accuracies,
    fooled_examples,
    accuracy_dots,
    scale_curves,
    selection_sweep,
    training_curves,
    selection_curves,
    score_scatter,
    image_grids,
    generated_images,
    filtered_images,
    proxy_distance,
    time_split,
    phase_shares,
    passed_checks,
    provenance,
    run_again,
    configuration,
)
