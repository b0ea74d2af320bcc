"""Train classifiers by one or several methods on one data set, over seeds, and
compare."""

import time

import numpy as np

from jaxrobust import registry
from jaxrobust.loader import make_pool
from jaxrobust.progress import Progress
from jaxrobust.tasks.card import accuracy_checks, seeds_check
from jaxrobust.tasks.finish import finish
from jaxrobust.tasks.results import Results, verdict
from jaxrobust.tasks.rows import collapse_checks, train_row
from jaxrobust.tasks.setup import Config, build_setup
from jaxrobust.tasks.trainer import Trainer, resolve_steps
from jaxrobust.types import Subset
from jaxrobust.workdir import Workdir

QUESTION = "How accurate are these methods on clean and on attacked test images?"


def train(config: Config, path: str) -> None:
    """The task: every method of `config.compare`, for every seed."""
    started = time.monotonic()
    setup = build_setup(config)
    chosen = [
        registry.lookup("method", setup.methods, name) for name in config["compare"]
    ]
    pool = make_pool(setup.splits.train, None)
    steps = resolve_steps(config["train"], len(pool))
    workdir = Workdir(path, config)
    a_step = config["train"]["batch_size"] * sum(m.gradients for m in chosen)
    progress = Progress(len(config["seeds"]) * steps * a_step)
    trainer = Trainer(setup, pool, workdir, progress)
    results = Results(workdir, config["title"], QUESTION)
    everything = Subset.uniform(np.arange(len(pool)))
    for seed in config["seeds"]:
        for method in chosen:
            train_row(results, trainer, method, "original", everything, seed, steps, {})
    checks = [
        seeds_check(setup),
        *accuracy_checks(results.runs, setup),
        *collapse_checks(results.runs),
    ]
    finish(setup, trainer, results, _answer(results, chosen), checks, started)


def _answer(results: Results, chosen: list) -> str:
    """Every method against the first, under PGD."""
    first = f"{chosen[0].name} / original"
    return " ".join(
        f"{method.name} - {chosen[0].name}, accuracy under PGD: "
        f"{verdict(results, f'{method.name} / original', first, 'pgd_acc')}."
        for method in chosen[1:]
    )
