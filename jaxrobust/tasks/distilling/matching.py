"""DC, DSA and DM: images that do to random networks what real images do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxrobust import optim, registry, rng
from jaxrobust.attacks.noise import no_attack
from jaxrobust.augment import Augment as BatchAugment
from jaxrobust.distill import dsa as siamese
from jaxrobust.distill.dc import gradient_match
from jaxrobust.distill.dm import feature_match
from jaxrobust.distill.images import image_sgd
from jaxrobust.distill.matching import DISTANCES
from jaxrobust.distill.outer import (
    DistillState,
    Loops,
    Match,
    init_state,
    loops,
    make_outer_step,
)
from jaxrobust.errors import UserError
from jaxrobust.loader import to_unit
from jaxrobust.objectives.standard import standard
from jaxrobust.tasks.distilling.making import (
    Job,
    Loop,
    check_start,
    first_images,
    fresh_network,
    on_device,
)
from jaxrobust.tasks.distilling.picks import BATCHES, class_rows, random_rows
from jaxrobust.tasks.setup import Method, Setup
from jaxrobust.train_step import plain_step
from jaxrobust.types import PyTree


class Matching:
    """The outer loop around one `Match`, with real images drawn for every class.

    `num_networks` live one after another; how long, says `cycle`, by images of a class.
    `passes` is what a real image costs in a match, in forward passes.
    """

    soft = False

    def __init__(
        self,
        setup: Setup,
        match: Match,
        cycle: Callable[[int], Loops],
        augment: BatchAugment,
        passes: float,
        *,
        num_networks: int,
        chunk_steps: int,
        learning_rate: float,
        momentum: float,
        start: str,
        real_batch: int,
        clip: bool,
        network: Mapping[str, Any],
    ):
        self.setup, self.match, self.cycle, self.passes = setup, match, cycle, passes
        self.num_networks, self.chunk_steps = num_networks, chunk_steps
        self.start, self.clip, self.inner_batch = start, clip, network["batch_size"]
        self.image_tx = image_sgd(learning_rate, momentum, setup.model.std)
        check_start(start)
        self.members = class_rows(setup.splits.train.label, setup.splits.num_classes)
        self.real_batch = min(real_batch, *map(len, self.members))
        if not self.real_batch:
            raise UserError("matching needs real images of every class: one has none")
        network_tx = optim.make_optimiser(network["optim"], total_steps=1)
        self.fresh = fresh_network(setup.model, setup.splits.image_shape, network_tx)
        self.train = plain_step(
            setup.model, network_tx, standard(), no_attack(), augment, "batch"
        )
        self._run = jax.jit(self._steps)

    def _loop(self, ipc: int) -> Loop:
        real = self.real_batch * len(self.members)
        steps = self.num_networks * self.cycle(ipc).outer_steps
        return Loop(steps, self.chunk_steps, self.passes * real)

    def work(self, ipc: int) -> float:
        """As `Distiller`: matching alone."""
        loop = self._loop(ipc)
        return loop.num_steps * loop.work_per_step

    def distil(self, job: Job, variables: PyTree | None) -> np.ndarray:
        """As `Distiller`; there is no teacher."""
        images, _ = on_device(self.setup.splits.train)
        key = rng.purpose_key(job.number, "train")

        def advance(state: DistillState, step: int, count: int):
            rows = [self._rows(job.number, at) for at in range(step, step + count)]
            return self._run(state, images, jnp.asarray(np.stack(rows)), key)

        first = first_images(self.setup, job, self.start)
        state = init_state(first, self.image_tx, self.fresh)
        return np.asarray(self._loop(job.ipc).run(job, "", state, advance).image)

    def _steps(self, state: DistillState, images: Array, rows: Array, key: Array):
        """One outer step for each of the real images rows i32[S,K,B]; compiled once for
        all sets with as many images."""
        outer = make_outer_step(
            self.match, self.fresh, self.train, self.image_tx,
            self.cycle(state.image.shape[1]), self.inner_batch, self.clip,
        )  # fmt: skip
        body = lambda state, row: outer(state, to_unit(images[row]), key)
        return lax.scan(body, state, rows)

    def _rows(self, seed: int, step: int) -> np.ndarray:
        """Real images i32[K,B] of a step, row k of class k."""
        stream = BATCHES + step * len(self.members)
        rows = random_rows(self.members, self.real_batch, seed, stream)
        return rows.astype(np.int32)


def dc(setup: Setup, real: Method, distance: str, matching: Mapping) -> Matching:
    """Gradients of a network: `real` says by which objective real images give theirs.

    `matching` has the keywords of `Matching`. Ref: arXiv:2006.05929; GUARD's table b.
    """
    return _gradients(setup, real, distance, (), matching)


def dsa(
    setup: Setup, real: Method, distance: str, ops: Sequence[str], matching: Mapping
) -> Matching:
    """DC with both sides moved alike by one of `ops`. Ref: arXiv:2102.08259."""
    return _gradients(setup, real, distance, ops, matching)


def dm(setup: Setup, ops: Sequence[str], matching: Mapping) -> Matching:
    """Mean embeddings of random networks, a new one for each step: no loss is involved,
    so no objective either. Ref: arXiv:2110.04181."""
    augment = _moves(setup, ops, siamese_moves=True)
    match = feature_match(setup.model, augment)
    return _make(setup, match, lambda _: Loops(1, 1), (), 1.0, matching)


def _gradients(setup, real: Method, distance: str, ops, matching: Mapping) -> Matching:
    match = gradient_match(
        setup.model,
        real.objective,
        real.attack,
        registry.lookup("distance of gradients", DISTANCES, distance),
        _moves(setup, ops, siamese_moves=True),
    )
    return _make(setup, match, loops, ops, real.gradients, matching)


def _make(setup, match, cycle, ops, passes: float, matching: Mapping) -> Matching:
    moves = _moves(setup, ops, siamese_moves=False)
    augment = lambda key, batch: batch._replace(image=moves(key, batch.image))
    given = {"setup": setup, "match": match, "cycle": cycle}
    given |= {"augment": augment, "passes": passes}
    return registry.call("matching of distill.methods", Matching, matching, given)


def _moves(setup: Setup, ops: Sequence[str], siamese_moves: bool) -> siamese.Augment:
    mean, std = setup.model.mean, setup.model.std
    return siamese.make_dsa(ops, siamese.PUBLISHED, mean, std, siamese_moves)
