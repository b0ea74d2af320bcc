"""Adversarial coresets: a weighted subset with the gradient of all attacked images.

Ref: Dolatabadi et al., Adversarial Coreset Selection, arXiv:2112.00378, 2209.05785.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import registry, rng, sharding
from jaxrobust.errors import UserError
from jaxrobust.loader import Feed, Pool
from jaxrobust.selection import Frozen, Manifest
from jaxrobust.selection.coreset import Picked, relative_error
from jaxrobust.selection.craig import craig
from jaxrobust.selection.glister import Validation, glister
from jaxrobust.selection.gradmatch import gradmatch
from jaxrobust.selection.spread_factors import SpreadFactors
from jaxrobust.tasks.choices.gradients import GradientPass
from jaxrobust.tasks.choices.plan import (
    Choice,
    Plan,
    Selected,
    chosen_again,
    drawn,
    everything,
)
from jaxrobust.tasks.ranking import manifest_columns
from jaxrobust.tasks.setup import Setup
from jaxrobust.tasks.study import Costs, Study
from jaxrobust.types import TrainState

ALGORITHMS = {"craig": craig, "glister": glister, "gradmatch": gradmatch}
ERRORS = ("gradient_error", "random_gradient_error")
"""Relative gradient errors, in every manifest and, as means, in every row."""


def coreset(
    setup: Setup,
    choice: str,
    gradients: GradientPass,
    configured: Mapping[str, Any],
    algorithm: Mapping[str, Any],
    warm_percent: float,
    every_percent: float,
) -> Choice:
    """A weighted subset that is chosen anew every `every_percent` of the steps.

    Before, for `warm_percent` of them, training is on everything; with 0, for one
    period, on a random subset. Both are taken in whole chunks of steps. `algorithm`
    names one of `ALGORITHMS` with its options.

    Deviates: the released code spends empty epochs after its warm start, and adds the
    perturbations it has selected by to other crops of the images.
    """
    if not 0 <= warm_percent < 100 or not 0 < every_percent <= 100:
        raise UserError(
            f"comparison.choices.{choice}: warm_percent is from 0 to below 100 and "
            f"every_percent above 0, not {warm_percent:g} and {every_percent:g}"
        )
    options = dict(algorithm)
    pick = registry.lookup("algorithm", ALGORITHMS, options.pop("name"))
    if pick is glister and not len(setup.splits.val):
        raise UserError("glister needs held-out images: set data.val_count above 0")
    search = Search(gradients, pick, options)
    whole = options["batch_size"] if options.get("scope") == "batch" else 1

    def plan(study: Study, share: float, seed: int, steps: int) -> Plan:
        size = study.budget(share) // whole * whole

        def select(name: str, step: int, state: TrainState | None) -> Selected:
            def make() -> Manifest:
                assert state is not None
                known = {"method": dict(configured), "seed": seed, "step": step}
                found = search(study, state, size, seed, step)
                return found._replace(facts={**known, **found.facts})

            manifest = study.recall(name, make)
            facts = {key: manifest.facts[key] for key in ERRORS}
            return Selected(manifest.subset, _costs(manifest.facts), facts)

        warm, period = (
            study.whole_chunks(steps * percent / 100)
            for percent in (warm_percent or every_percent, every_percent)
        )
        first = everything(study) if warm_percent else drawn(study, share, seed)
        return chosen_again(
            study, choice, share, seed, steps, first, (warm, period), size, select
        )

    return Choice(plan)


@dataclass
class Search:
    """Finds the coreset of a network that is being trained."""

    gradients: GradientPass
    pick: Callable[..., Picked]
    options: dict[str, Any]
    _compiled: set[int] = field(default_factory=set)

    def __call__(
        self, study: Study, state: TrainState, budget: int, seed: int, step: int
    ) -> Manifest:
        """Its weights have mean 1. Its facts hold the relative gradient error, that of
        as many random images, and what the search took without compilation."""
        trainer, mesh = study.trainer, study.trainer.setup.mesh
        base = jax.random.fold_in(rng.purpose_key(seed, "select"), step)
        key = sharding.replicate_key(base, mesh)
        network = trainer.frozen(state)
        see = self.gradients.spread if self._apart(mesh) else self.gradients
        look = lambda index: see(network, trainer.feed, index, key)
        if not self.gradients.compiled:
            jax.block_until_ready(look(study.everything[:1]))
        start = time.monotonic()
        found = jax.block_until_ready(look(study.everything))
        factors = found if isinstance(found, SpreadFactors) else found[0]
        seen = time.monotonic()
        label = jnp.asarray(trainer.pool.label)
        options = self._options(study, network, key)
        solve = lambda: self.pick(factors, label, budget, key, **options)
        if budget not in self._compiled:
            jax.block_until_ready(solve())
            self._compiled.add(budget)
        before = time.monotonic()
        picked = jax.block_until_ready(solve())
        facts = {k: float(v) for k, v in picked.facts.items() if jnp.ndim(v) == 0}
        facts |= {
            "score_seconds": seen - start,
            "select_seconds": time.monotonic() - before,
            "passes": self.gradients.passes * study.size,
        }
        chance = jnp.asarray(rng.host_choice(seed, step, study.size, budget))
        uniform = jnp.full(budget, study.size / budget)
        error = relative_error(factors, chance, uniform, mesh)
        facts["random_gradient_error"] = float(error)
        return Manifest(self._columns(study, picked), facts)

    def _apart(self, mesh: Mesh) -> bool:
        """Whether gradients stay on several devices, each choosing from some
        classes."""
        by_class = self.options.get("scope", "class") == "class"
        by_class &= not self.options.get("own_row", False)
        return self.pick is not glister and by_class and mesh.devices.size > 1

    def _options(self, study: Study, network: Frozen, key: Array) -> dict[str, Any]:
        """Those of the configuration; GLISTER also looks at attacked held-out
        images."""
        mesh = study.trainer.setup.mesh
        if self.pick is not glister:
            return {**self.options, "mesh": mesh if self._apart(mesh) else None}
        setup = study.trainer.setup
        val, device_gb = setup.splits.val, setup.config["train"]["device_gb"]
        feed = Feed(Pool((val,)), setup.mesh, device_gb)
        factors, logits = self.gradients(network, feed, np.arange(len(val)), key)
        held_out = Validation(logits, factors.embedding[:, -1], jnp.asarray(val.label))
        return {**self.options, "validation": held_out}

    def _columns(self, study: Study, picked: Picked) -> dict[str, np.ndarray]:
        kept, weight = np.zeros(study.size, bool), np.zeros(study.size, np.float32)
        kept[np.asarray(picked.index)] = True
        weight[np.asarray(picked.index)] = picked.weight
        weight /= weight[kept].mean()
        return manifest_columns(
            study.trainer, study.everything, kept, weight, {"score": weight}
        )


def _costs(facts: Mapping[str, Any]) -> Costs:
    return Costs(
        score_seconds=facts["score_seconds"],
        select_seconds=facts["select_seconds"],
        passes=facts["passes"],
    )
