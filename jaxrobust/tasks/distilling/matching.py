"""DC, DSA and DM: images that do to random networks what real images do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxrobust import optim, registry, rng
from jaxrobust.augment import Augment as BatchAugment
from jaxrobust.data.image_set import gather
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
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import create_state, init_variables
from jaxrobust.tasks.distilling.making import Job, Loop, check_start, first_images
from jaxrobust.tasks.setup import Method, Setup, build_attack
from jaxrobust.train_step import StepOptions, make_train_step
from jaxrobust.types import PyTree, TrainState

FIRST_BATCH = 1 << 20
"""Random streams of real batches begin here, those of first images at 0."""


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
        self.network_tx = optim.make_optimiser(network["optim"], total_steps=1)
        check_start(start)
        label = setup.splits.train.label
        self.members = [
            np.flatnonzero(label == k) for k in range(setup.splits.num_classes)
        ]
        self.real_batch = min(real_batch, *map(len, self.members))
        if not self.real_batch:
            raise UserError("matching needs real images of every class: one has none")
        self.train = make_train_step(
            setup.model,
            self.network_tx,
            standard(),
            build_attack("attack", {"name": "none"}, setup.threat),
            all_rows(),
            augment,
            StepOptions("batch", 0.0, 0.0, 0, "batch"),
        )

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
        outer = make_outer_step(
            self.match, self._fresh, self.train, self.image_tx, self.cycle(job.ipc),
            self.inner_batch, self.clip,
        )  # fmt: skip
        train = self.setup.splits.train
        images = jnp.asarray(gather(train.image, np.arange(len(train))))
        key = rng.purpose_key(job.number, "train")

        @jax.jit
        def run(state: DistillState, images: Array, rows: Array):
            body = lambda state, row: outer(state, to_unit(images[row]), key)
            return lax.scan(body, state, rows)

        def advance(state: DistillState, step: int, count: int):
            rows = [self._rows(job.number, at) for at in range(step, step + count)]
            return run(state, images, jnp.asarray(np.stack(rows)))

        state = init_state(
            first_images(self.setup, job, self.start), self.image_tx, self._fresh
        )
        return np.asarray(self._loop(job.ipc).run(job, "", state, advance).image)

    def _fresh(self, key: Array) -> TrainState:
        variables = init_variables(self.setup.model, self.setup.splits.image_shape, key)
        return create_state(variables, self.network_tx, with_ema=False)

    def _rows(self, seed: int, step: int) -> np.ndarray:
        """Real images int32[K,B] of a step, row k of class k."""
        first = FIRST_BATCH + step * len(self.members)
        return np.stack(
            [
                rows[rng.host_choice(seed, first + k, len(rows), self.real_batch)]
                for k, rows in enumerate(self.members)
            ]
        ).astype(np.int32)


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
    try:
        return Matching(setup, match, cycle, augment, passes, **matching)
    except TypeError as error:
        raise UserError(f"distill.methods: matching: {error}") from error


def _moves(setup: Setup, ops: Sequence[str], siamese_moves: bool) -> siamese.Augment:
    mean, std = setup.model.mean, setup.model.std
    return siamese.make_dsa(ops, siamese.PUBLISHED, mean, std, siamese_moves)
