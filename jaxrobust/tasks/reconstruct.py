"""Hybrid data reconstruction, end to end: rebuild, retrain, evaluate, report."""

import logging
import time

import numpy as np

from jaxrobust import registry, rng
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.loader import make_pool
from jaxrobust.progress import Progress
from jaxrobust.selection import ORDERS
from jaxrobust.tasks.card import Check, accuracy_checks, seeds_check
from jaxrobust.tasks.finish import finish
from jaxrobust.tasks.pool_source import PoolSource
from jaxrobust.tasks.ranking import build_scoring
from jaxrobust.tasks.rebuild import Rebuilder
from jaxrobust.tasks.results import Results, verdict
from jaxrobust.tasks.rows import collapse_checks, train_row
from jaxrobust.tasks.setup import Config, Setup, build_setup
from jaxrobust.tasks.trainer import Trainer, resolve_steps
from jaxrobust.types import Subset
from jaxrobust.workdir import Workdir

logger = logging.getLogger(__name__)
QUESTION = (
    "Does a training set rebuilt from original and generated images make a more robust "
    "classifier than the original one, at the same size and the same number of steps?"
)


class HybridRun:
    """What the tasks that need a hybrid set share: the pool and the rounds.

    Building one checks the whole configuration; only `open` writes.
    """

    def __init__(self, config: Config):
        self.started = time.monotonic()
        self.setup = build_setup(config)
        build_scoring(self.setup)
        check_reconstruct(config["reconstruct"], self.setup)
        self._source = PoolSource(self.setup)

    def open(self, path: str, total_work: float) -> Trainer:
        """Open the run directory, make the pool if need be, and be ready to train."""
        workdir = Workdir(path, self.setup.config)
        progress = Progress(total_work + self._source.work)
        pool = self._source.open(workdir, progress)
        return Trainer(
            self.setup, make_pool(self.setup.splits.train, pool), workdir, progress
        )

    def checks(self, trainer: Trainer, rows: list[dict]) -> list[Check]:
        """The checks of the card."""
        return [
            seeds_check(self.setup),
            *accuracy_checks(rows, self.setup),
            *collapse_checks(rows),
            *self._source.checks(trainer.workdir),
        ]


def check_reconstruct(spec: Config, setup: Setup) -> None:
    """Raises `UserError` for a key of `config.reconstruct` that cannot be met."""
    for name in (spec["method"], *spec["compare"]):
        registry.lookup("method", setup.methods, name)
    if spec["order"] not in ORDERS:
        raise unknown_name("reconstruct.order", spec["order"], ORDERS)
    if spec["rounds"] < 1 or not spec["sample_fraction"] > 0:
        raise UserError("reconstruct needs rounds >= 1 and sample_fraction > 0")
    size, batch = len(setup.splits.train), setup.config["train"]["batch_size"]
    if batch > size:
        raise UserError(
            f"train.batch_size {batch} is larger than the {size} images to train on: "
            f"lower it to at most {size}"
        )


def reconstruct(config: Config, path: str) -> None:
    """The task: original against hybrid against random choice, for every seed."""
    run = HybridRun(config)
    setup, spec = run.setup, config["reconstruct"]
    chosen = {n: registry.lookup("method", setup.methods, n) for n in spec["compare"]}
    baseline = registry.lookup("method", setup.methods, "standard")
    steps = resolve_steps(config["train"], len(setup.splits.train))
    trainer = run.open(path, _planned_work(run, chosen, baseline, steps))
    rebuilder = Rebuilder(trainer)
    results = Results(trainer.workdir, config["title"], QUESTION)
    for seed in config["seeds"]:
        rebuilt = rebuilder.run(seed)
        original = Subset.uniform(np.arange(trainer.pool.num_original))
        sets = {"original": original, "hybrid": rebuilt.hybrid}
        if spec["random_baseline"]:
            size = len(original.index)
            sets["random"] = random_subset(rebuilt.candidates, size, seed)
        for method in chosen.values():
            for kind, subset in sets.items():
                costs = rebuilt.costs if kind == "hybrid" else {}
                train_row(results, trainer, method, kind, subset, seed, steps, costs)
        train_row(results, trainer, baseline, "original", original, seed, steps, {})
    checks = run.checks(trainer, results.runs)
    finish(setup, trainer, results, _answer(results, config), checks, run.started)


def random_subset(candidates: np.ndarray, size: int, seed: int) -> Subset:
    """As many of the same candidates, without looking at them: the baseline of
    ranking."""
    chosen = rng.host_choice(seed, 999, len(candidates), size)
    return Subset.uniform(candidates[chosen])


def _answer(results: Results, config: Config) -> str:
    """The question of the run, answered in one sentence a method."""
    column = "pgd_acc"
    sentences = []
    for name in config["reconstruct"]["compare"]:
        first, second = f"{name} / hybrid", f"{name} / original"
        gap = verdict(results, first, second, column)
        sentences.append(f"{name}: hybrid - original, accuracy under PGD: {gap}.")
        if config["reconstruct"]["random_baseline"]:
            gap = verdict(results, first, f"{name} / random", column)
            sentences.append(f"{name}: hybrid - random choice of the same: {gap}.")
    return " ".join(sentences)


def _planned_work(run: HybridRun, chosen: dict, baseline, steps: int) -> float:
    config = run.setup.config
    spec, size = config["reconstruct"], config["train"]["batch_size"]
    kinds = 3 if spec["random_baseline"] else 2
    rounds = run.setup.methods[spec["method"]].gradients
    a_seed = spec["rounds"] * spec["round_steps"] * rounds
    a_seed += sum(kinds * steps * method.gradients for method in chosen.values())
    a_seed += steps * baseline.gradients
    return len(config["seeds"]) * size * a_seed
