"""MTT and TESLA: images that lead a network along the way of experts."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxrobust import optim, rng, sharding
from jaxrobust.data.image_set import gather
from jaxrobust.distill import mtt as exact
from jaxrobust.distill import tesla as constant
from jaxrobust.distill.dsa import PUBLISHED, make_dsa
from jaxrobust.distill.experts import (
    draw_segment,
    expert_path,
    make_expert,
    open_experts,
    write_expert,
)
from jaxrobust.distill.images import image_sgd
from jaxrobust.distill.trajectory import (
    Segment,
    TrajectoryState,
    flat_network,
    hard_labels,
    init_state,
    make_trajectory_step,
)
from jaxrobust.errors import UserError
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import create_state, init_variables
from jaxrobust.tasks.distilling.making import Job, Loop, check_start, first_images
from jaxrobust.tasks.setup import Method, Setup
from jaxrobust.train_step import StepOptions, make_train_step
from jaxrobust.types import PyTree, TrainState


class Trajectories:
    """Segments of experts' ways, matched one after another.

    Experts learn the real images by `real`: GUARD enters there and nowhere else. They
    are trained once for every set and shared by all numbers of images. An inner step of
    `make_match` with its gradient is `passes` forward passes.
    """

    soft = False

    def __init__(
        self,
        setup: Setup,
        real: Method,
        make_match: Any,
        passes: float,
        *,
        num_steps: int,
        chunk_steps: int,
        learning_rate: float,
        momentum: float,
        start: str,
        clip: bool,
        inner_steps: int,
        batch_size: int,
        first_rate: float,
        rate_learning_rate: float,
        least_rate: float,
        segment_epochs: int,
        max_start: int,
        ops: Sequence[str],
        experts: Mapping[str, Any],
    ):
        self.setup, self.real, self.experts, self.start = setup, real, experts, start
        work = passes * inner_steps * batch_size
        self.loop = Loop(num_steps, chunk_steps, work)
        check_start(start)
        self.first_rate, self.ops = first_rate, ops
        self.segment = segment_epochs, max_start
        if segment_epochs + max_start - 1 > experts["epochs"]:
            raise UserError(
                f"experts.epochs {experts['epochs']} end before a segment of "
                f"{segment_epochs} epochs from epoch {max_start - 1}: train for longer"
            )
        model, shape = setup.model, setup.splits.image_shape
        self.expert_tx = optim.make_optimiser(experts["optim"], total_steps=1)
        network = flat_network(model, shape)
        augment = self._moves()
        self.image_tx = image_sgd(learning_rate, momentum, model.std)
        self.rate_tx = optax.sgd(rate_learning_rate, momentum)
        self.step = make_trajectory_step(
            make_match(network, augment, inner_steps, batch_size),
            hard_labels, self.image_tx, self.rate_tx, least_rate, clip,
        )  # fmt: skip

    def work(self, ipc: int) -> float:
        """As `Distiller`: matching alone."""
        return self.loop.num_steps * self.loop.work_per_step

    def distil(self, job: Job, variables: PyTree | None) -> np.ndarray:
        """As `Distiller`; there is no teacher."""
        experts = self._experts(job)
        key = rng.purpose_key(job.number, "train")
        run = jax.jit(self.step)

        def advance(state: TrajectoryState, step: int, count: int):
            found = []
            for at in range(step, step + count):
                state, facts = run(state, self._segment(experts, job, at), key)
                found.append(facts)
            return state, jax.tree.map(lambda *values: jnp.stack(values), *found)

        image = first_images(self.setup, job, self.start)
        state = init_state(image, self.first_rate, self.image_tx, self.rate_tx)
        return np.asarray(self.loop.run(job, "", state, advance).image)

    def _segment(self, experts: Sequence[np.ndarray], job: Job, at: int) -> Segment:
        return draw_segment(experts, *self.segment, seed=job.number, step=at)

    def _experts(self, job: Job) -> list[np.ndarray]:
        """The experts of this set; those that are missing are trained."""
        folder = job.workdir.path / "experts" / f"{self.real.name}-set{job.number}"
        paths = [expert_path(folder, i) for i in range(self.experts["count"])]
        expert = None
        train = self.setup.splits.train
        key = rng.purpose_key(job.number, "score")
        for number, path in enumerate(paths):
            if path.exists():
                continue
            if expert is None:
                expert = jax.jit(self._expert())
                image = jnp.asarray(gather(train.image, np.arange(len(train))))
                label = jnp.asarray(train.label)
            params = expert(jax.random.fold_in(key, number), image, label)
            if sharding.is_lead():
                folder.mkdir(parents=True, exist_ok=True)
                write_expert(path, params)
        sharding.wait_for_all("experts")
        size = sum(leaf.size for leaf in jax.tree.leaves(self._shapes()))
        return open_experts(paths, size, *self.segment)

    def _expert(self):
        train = make_train_step(
            self.setup.model,
            self.expert_tx,
            self.real.objective,
            self.real.attack,
            all_rows(),
            self._augment,
            StepOptions(self.real.attack_bn, 0.0, 0.0, 0, "batch"),
        )
        epochs, size = self.experts["epochs"], self.experts["batch_size"]
        return make_expert(self._fresh, train, epochs, size)

    def _augment(self, key: Array, batch):
        return batch._replace(image=self._moves()(key, batch.image))

    def _moves(self):
        model = self.setup.model
        return make_dsa(self.ops, PUBLISHED, model.mean, model.std, siamese=False)

    def _fresh(self, key: Array) -> TrainState:
        shape = self.setup.splits.image_shape
        variables = init_variables(self.setup.model, shape, key)
        return create_state(variables, self.expert_tx, with_ema=False)

    def _shapes(self) -> PyTree:
        return jax.eval_shape(self._fresh, jax.random.key(0)).params


def mtt(setup: Setup, real: Method, trajectory: Mapping) -> Trajectories:
    """The exact gradient through all inner steps; `trajectory` has the keywords of
    `Trajectories`. Ref: arXiv:2203.11932; GUARD has no code for it, so that its experts
    are our reading."""
    return _make(setup, real, exact.trajectory_match, exact.PASSES, trajectory)


def tesla(setup: Setup, real: Method, trajectory: Mapping) -> Trajectories:
    """The same in constant memory, with another gradient. Ref: arXiv:2211.10586.
    Deviates: labels stay hard."""
    return _make(
        setup, real, constant.constant_memory_match, constant.PASSES, trajectory
    )


def _make(
    setup: Setup, real: Method, make_match: Any, passes: float, trajectory: Mapping
) -> Trajectories:
    try:
        return Trajectories(setup, real, make_match, passes, **trajectory)
    except TypeError as error:
        raise UserError(f"distill.methods: trajectory: {error}") from error
