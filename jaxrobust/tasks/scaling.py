"""How many generated images does robustness take? Training on n of them, and nothing
else."""

import time
from dataclasses import dataclass

import numpy as np

from jaxrobust import registry, rng
from jaxrobust.errors import UserError
from jaxrobust.loader import Feed, Pool, make_pool
from jaxrobust.progress import Progress
from jaxrobust.samplers import FixedSampler
from jaxrobust.tasks.card import accuracy_checks, seeds_check
from jaxrobust.tasks.finish import finish
from jaxrobust.tasks.fit import Fitted
from jaxrobust.tasks.pool_source import PoolSource
from jaxrobust.tasks.results import Results, Row
from jaxrobust.tasks.rows import collapse_checks, fitted_row
from jaxrobust.tasks.setup import Config, Method, build_setup
from jaxrobust.tasks.trainer import Trainer, resolve_steps
from jaxrobust.types import Subset
from jaxrobust.workdir import Workdir

QUESTION = (
    "How accurate does training on generated images alone get, on more of them and on "
    "real ones, as their number grows?"
)


def scaling(config: Config, path: str) -> None:
    """The task: every method of `config.compare` on each of `config.scaling.sizes`
    generated images, at equal steps, for every seed.

    Sizes are nested: the images of a smaller one are among those of a larger one.
    `generated_*_acc` are on `held_out` other images of the pool, the plain ones on the
    real test images.

    Ref: Sehwag et al., arXiv:2104.09425, figures 3 and 4, and table 1 (train on
    generated, test on real).
    """
    started, spec = time.monotonic(), config["scaling"]
    setup = build_setup(config)
    chosen = [
        registry.lookup("method", setup.methods, name) for name in config["compare"]
    ]
    source = PoolSource(setup)
    steps = resolve_steps(config["train"], max(spec["sizes"]))
    workdir = Workdir(path, config)
    a_step = config["train"]["batch_size"] * sum(m.gradients for m in chosen)
    networks = len(config["seeds"]) * len(spec["sizes"])
    progress = Progress(source.work + networks * steps * a_step)
    pool = source.open(workdir, progress)
    order = _order(config, len(pool))
    device_gb = config["train"]["device_gb"]
    held_out = pool.take(np.sort(order[: spec["held_out"]]))
    feed = Feed(Pool((held_out,)), setup.mesh, device_gb)
    trainer = Trainer(setup, make_pool(setup.splits.train, pool), workdir, progress)
    results = Results(workdir, config["title"], QUESTION)
    study = _Study(trainer, results, feed, order[spec["held_out"] :], steps)
    for seed in config["seeds"]:
        for method in chosen:
            for size in spec["sizes"]:
                study.row(method, size, seed)
    checks = [
        seeds_check(setup),
        *accuracy_checks(results.runs, setup),
        *collapse_checks(results.runs),
        *source.checks(workdir),
    ]
    finish(setup, trainer, results, _answer(results, chosen), checks, started)


@dataclass(frozen=True)
class _Study:
    """What the rows share."""

    trainer: Trainer
    results: Results
    held_out: Feed
    order: np.ndarray
    steps: int

    def row(self, method: Method, size: int, seed: int) -> None:
        """One network on the first `size` images of the order."""
        trainer, steps = self.trainer, self.steps
        index = np.sort(trainer.pool.num_original + self.order[:size])
        batch_size = trainer.setup.config["train"]["batch_size"]
        sampler = FixedSampler(Subset.uniform(index), seed, batch_size)

        def fit(stage: str) -> Fitted:
            return trainer.train_on(stage, method, sampler, size, seed, steps)

        def facts(fitted: Fitted) -> Row:
            found = trainer.evaluate(fitted.state, self.held_out)
            own = {f"generated_{k}": v for k, v in found.items() if k.endswith("_acc")}
            return {
                **own,
                "train_images": size,
                "generated_share": 1.0,
                "method": method.name,
                "generated_passes": steps * batch_size / size,
                "baseline": method.objective.inner is None,
            }

        kind = f"{size:,} generated"
        fitted_row(self.results, trainer, method, kind, seed, steps, fit, facts)


def _order(config: Config, size: int) -> np.ndarray:
    """A random order of the pool, its first images held out of all training."""
    spec, batch = config["scaling"], config["train"]["batch_size"]
    largest, smallest = max(spec["sizes"]), min(spec["sizes"])
    if largest + spec["held_out"] > size or spec["held_out"] < 1:
        raise UserError(
            f"the pool has {size} images, fewer than the {largest} of scaling.sizes "
            f"and scaling.held_out {spec['held_out']}: generate more, or ask for fewer"
        )
    if smallest < batch:
        raise UserError(
            f"scaling.sizes has {smallest}, below a batch of {batch}: raise it, or "
            "lower train.batch_size"
        )
    return rng.permutation(config["seeds"][0], 0, size)


def _answer(results: Results, chosen: list[Method]) -> str:
    """What the largest number comes to."""
    lines, size = [], lambda row: row["train_images"]
    for method in chosen:
        mine = [row for row in results.mean_rows() if row["method"] == method.name]
        first, last = min(mine, key=size), max(mine, key=size)
        lines.append(
            f"{method.name}: from {first['train_images']:,} to "
            f"{last['train_images']:,} images accuracy under PGD goes from "
            f"{first['pgd_acc']:.1%} to {last['pgd_acc']:.1%} on real images and from "
            f"{first['generated_pgd_acc']:.1%} to {last['generated_pgd_acc']:.1%} on "
            "generated ones."
        )
    return " ".join(lines)
