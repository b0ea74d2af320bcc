"""Proxy distributions, end to end: generate, label, filter, mix, train, evaluate,
explain, certify."""

import time
from functools import partial

import numpy as np

from jaxrobust import registry
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.loader import make_pool
from jaxrobust.progress import Progress
from jaxrobust.samplers import FixedSampler, MixedSampler, Sampler
from jaxrobust.tasks.card import accuracy_checks, row_checks, seeds_check
from jaxrobust.tasks.explaining import Explaining
from jaxrobust.tasks.finish import finish
from jaxrobust.tasks.fit import Fitted
from jaxrobust.tasks.labelling import Labelled, Labelling
from jaxrobust.tasks.pool_source import PoolSource
from jaxrobust.tasks.results import Results, Row, verdict
from jaxrobust.tasks.rows import collapse_checks, fitted_row, stage_name
from jaxrobust.tasks.setup import Config, Method, build_setup
from jaxrobust.tasks.smoother import Smoother
from jaxrobust.tasks.trainer import Trainer, resolve_steps
from jaxrobust.threat import make_threat
from jaxrobust.types import Subset, TrainState
from jaxrobust.workdir import Workdir

QUESTION = (
    "Do generated images in every batch make a classifier more robust than the "
    "original ones alone, at the same number of steps of the same batch size?"
)
KINDS = ("original", "mixed")
WEIGHTINGS = ("count", "gamma")


def proxy(config: Config, path: str) -> None:
    """The task: every method of `config.compare` on original and on mixed batches, for
    every seed; networks trained on noise are certified, the others attacked.

    Ref: Sehwag et al., arXiv:2104.09425. Deviates: both rows take batches of one size,
    so also the same arithmetic; the paper's mixed batches are twice as large.
    """
    run = ProxyRun(config, path)
    for seed in config["seeds"]:
        for method in run.methods:
            for kind in KINDS:
                run.row(method, kind, seed)
    run.finish()


class ProxyRun:
    """Building one checks the whole configuration before it opens the directory."""

    def __init__(self, config: Config, path: str):
        self.started, self.config = time.monotonic(), config
        self.setup = setup = build_setup(config)
        self.methods = [
            registry.lookup("method", setup.methods, name) for name in config["compare"]
        ]
        labelling = Labelling(setup)
        self._source = PoolSource(setup, needs_labels=not labelling.predicts)
        self._generated = mixed_count(config)
        self._explaining = Explaining(setup)
        self.steps = resolve_steps(config["train"], len(setup.splits.train))
        self._smoother = Smoother(
            config["certify"],
            setup.splits.test,
            make_threat(**config["certify_at"]),
            setup.mesh,
        )
        workdir = Workdir(path, config)
        beside = self._source.work + labelling.work
        beside += self._explaining.work(len(KINDS) * len(self._attacked))
        progress = Progress(beside + self._planned_work())
        pool = self._source.open(workdir, progress)
        original = make_pool(setup.splits.train, None)
        labeller = Trainer(setup, original, workdir, progress)
        self.labelled: Labelled = labelling(labeller, pool)
        both = make_pool(setup.splits.train, self.labelled.pool)
        self.trainer = Trainer(setup, both, workdir, progress)
        self.results = Results(workdir, config["title"], QUESTION)

    def row(self, method: Method, kind: str, seed: int) -> None:
        """Train and evaluate, and certify where training was on noise."""
        trainer, steps, name = self.trainer, self.steps, f"{method.name} / {kind}"
        sampler, facts = self._sampler(kind, seed)
        beside = self._smoother.work if self._noisy(method) else 0.0

        def fit(stage: str) -> Fitted:
            images = trainer.pool.num_original
            return trainer.train_on(stage, method, sampler, images, seed, steps)

        def extra(fitted: Fitted) -> Row:
            baseline = kind == "original"
            return {**facts, **self._certify(method, name, seed, fitted)} | {
                "baseline": baseline
            }

        fitted_row(self.results, trainer, method, kind, seed, steps, fit, extra, beside)

    def _sampler(self, kind: str, seed: int) -> tuple[Sampler, Row]:
        """What a row trains on, and what it says of that."""
        num, size = self.trainer.pool.num_original, self.config["train"]["batch_size"]
        original = Subset.uniform(np.arange(num))
        if kind == "original":
            passes = {"real_passes": self.steps * size / num}
            facts = {"train_images": num, "generated_share": 0.0, **passes}
            return FixedSampler(original, seed, size), facts
        mix, positions = self.config["mix"], num + self.labelled.kept
        gamma = mix["real_weight"] if mix["weighting"] == "gamma" else None
        mixed = MixedSampler(original, positions, self._generated, gamma, seed, size)
        facts = {
            "train_images": num + len(positions),
            "generated_share": self._generated / size,
            **mixed.passes(self.steps),
        }
        return mixed, facts

    def _certify(self, method: Method, name: str, seed: int, fitted: Fitted) -> Row:
        """The certificates of a network that was trained on noise."""
        if not self._noisy(method):
            return {}
        network, trainer = self.trainer.logits_fn(fitted.state), self.trainer
        found = self._smoother.examine(
            name, seed, network, trainer.workdir, trainer.progress
        )
        # The row's own clean accuracy is that of the whole test set.
        return {key: value for key, value in found.items() if key != "clean_acc"}

    def _state(self, method: Method, kind: str, seed: int) -> TrainState:
        """The network of a finished row."""
        stage = stage_name(method, kind, seed)
        sampler, _ = self._sampler(kind, seed)
        fitted = self.trainer.train_on(
            stage, method, sampler, self.trainer.pool.num_original, seed, self.steps
        )
        return fitted.state

    def finish(self) -> None:
        """Explain the pool by the first seed's attacked networks, conclude."""
        seed = self.config["seeds"][0]
        networks = {
            f"{method.name} / {kind}": partial(self._state, method, kind, seed)
            for method in self._attacked
            for kind in KINDS
        }
        self._explaining(self.trainer, self.labelled, networks)
        rows = self.results.runs
        checks = [
            seeds_check(self.setup),
            *accuracy_checks(rows, self.setup),
            *collapse_checks(rows),
            *self._source.checks(self.trainer.workdir),
            *row_checks(rows),
        ]
        answer = self._answer()
        finish(self.setup, self.trainer, self.results, answer, checks, self.started)

    def _answer(self) -> str:
        """Mixed against original for every method."""
        found = []
        for method in self.methods:
            pair = f"{method.name} / mixed", f"{method.name} / original"
            column, words = "pgd_acc", "accuracy under PGD"
            if self._noisy(method):
                column, words = "certified_acc", "certified accuracy"
            gap = verdict(self.results, *pair, column)
            found.append(f"{method.name}: mixed - original, {words}: {gap}.")
        return " ".join(found)

    @property
    def _attacked(self) -> list[Method]:
        return [method for method in self.methods if not self._noisy(method)]

    def _noisy(self, method: Method) -> bool:
        return self.config["methods"][method.name]["attack"]["name"] == "gaussian"

    def _planned_work(self) -> float:
        a_seed, size = 0.0, self.config["train"]["batch_size"]
        for method in self.methods:
            a_seed += len(KINDS) * self.steps * size * method.gradients
            a_seed += len(KINDS) * self._smoother.work * self._noisy(method)
        return len(self.config["seeds"]) * a_seed


def mixed_count(config: Config) -> int:
    """Generated images of a batch; raises `UserError` for a mixture that is none."""
    mix, size = config["mix"], config["train"]["batch_size"]
    if mix["weighting"] not in WEIGHTINGS:
        raise unknown_name("mix.weighting", mix["weighting"], WEIGHTINGS)
    if not 0 <= mix["real_weight"] <= 1:
        raise UserError(f"mix.real_weight {mix['real_weight']:g} is not in 0..1")
    count = round(mix["generated_percent"] / 100 * size)
    if not 0 < count < size:
        raise UserError(
            f"mix.generated_percent {mix['generated_percent']:g} of a batch of {size} "
            f"is {count} images: choose one between 0 and 100"
        )
    return count
