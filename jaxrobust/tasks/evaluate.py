"""Evaluate trained networks: checks, single attacks, a radius sweep, a suite of attacks
in the worst case, and a card that says how far to trust it."""

import time

from jaxrobust import registry
from jaxrobust.errors import UserError
from jaxrobust.progress import Progress
from jaxrobust.tasks.card import row_checks
from jaxrobust.tasks.examine import Examiner
from jaxrobust.tasks.finish import conclude
from jaxrobust.tasks.networks import Source, open_source
from jaxrobust.tasks.results import Results
from jaxrobust.tasks.setup import Config
from jaxrobust.threat import format_eps
from jaxrobust.workdir import Workdir

QUESTION = "How accurate are these networks when every image is attacked?"


def evaluate(config: Config, path: str) -> None:
    """The task: every chosen network of `config.checkpoint` under `config.suite`."""
    started = time.monotonic()
    spec = registry.lookup("suite", config["suites"], config["suite"])
    if not config["checkpoint"]:
        raise UserError("no network: say --config.checkpoint=DIRECTORY or FILE")
    source = open_source(config, spec["threat"])
    examiner = Examiner(config, spec, source)
    workdir = Workdir(path, config)
    progress = Progress(len(source.names) * examiner.planned_work)
    names = source.splits.test.class_names
    results = Results(workdir, config["title"], QUESTION, class_names=names)
    for name, seed in source.names:
        if results.find(name, seed) is not None:
            progress.skip(examiner.planned_work)
        examine = lambda name=name, seed=seed: examiner.examine(
            source.load(name, seed), workdir, progress
        )
        results.row(name, seed, examine)
        examiner.forget(workdir, name, seed)
    conclude(
        source, workdir, progress, results, _answer(results, source),
        row_checks(results.runs), started,
    )  # fmt: skip


def _answer(results: Results, source: Source) -> str:
    """The worst case of every network, with its interval."""
    lines = [f"{source.threat.norm} eps {format_eps(source.threat)}."]
    for row in results.runs:
        low, high = row["interval"]
        lines.append(
            f"{row['name']}, seed {row['seed']}: {row['aa_acc']:.1%} under "
            f"{row['suite_name']} (95% interval {low:.1%} to {high:.1%})."
        )
    return " ".join(lines)
