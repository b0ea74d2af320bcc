"""MTT and TESLA: images that lead a network along the way of experts."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import optim, registry, rng, sharding
from jaxrobust.distill import mtt as exact
from jaxrobust.distill import tesla as constant
from jaxrobust.distill.dsa import PUBLISHED, Augment, make_dsa
from jaxrobust.distill.experts import (
    Expert,
    draw_segment,
    expert_path,
    make_expert,
    open_experts,
    write_expert,
)
from jaxrobust.distill.images import image_sgd
from jaxrobust.distill.trajectory import (
    TrajectoryState,
    flat_network,
    hard_labels,
    init_state,
    make_trajectory_step,
)
from jaxrobust.errors import UserError
from jaxrobust.tasks.distilling.making import (
    Job,
    Loop,
    check_start,
    first_images,
    fresh_network,
    on_device,
)
from jaxrobust.tasks.fit import STOP, Preempted
from jaxrobust.tasks.setup import Method, Setup
from jaxrobust.train_step import plain_step
from jaxrobust.types import PyTree


class Trajectories:
    """Segments of experts' ways, matched one after another.

    Experts learn the real images by `real`: GUARD enters there and nowhere else. They
    are trained once for every set and shared by all numbers of images, and by all arms
    whose experts are alike. An inner step of `make_match` with its gradient is `passes`
    forward passes.
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
        self.first_rate, self.segment = first_rate, (segment_epochs, max_start)
        self.folder = f"experts/{real.name}-{_fingerprint(experts, ops)}"
        if segment_epochs + max_start - 1 > experts["epochs"]:
            raise UserError(
                f"experts.epochs {experts['epochs']} end before a segment of "
                f"{segment_epochs} epochs from epoch {max_start - 1}: train for longer"
            )
        model = setup.model
        moves = make_dsa(ops, PUBLISHED, model.mean, model.std, siamese=False)
        network = flat_network(model, setup.splits.image_shape)
        self.image_tx = image_sgd(learning_rate, momentum, model.std)
        self.rate_tx = optax.sgd(rate_learning_rate, momentum)
        step = make_trajectory_step(
            make_match(network, moves, inner_steps, batch_size),
            hard_labels, self.image_tx, self.rate_tx, least_rate, clip,
        )  # fmt: skip
        self.expert_tx = optim.make_optimiser(experts["optim"], total_steps=1)
        self.fresh = fresh_network(model, setup.splits.image_shape, self.expert_tx)
        # One program each for all sets.
        self._step, self._expert = jax.jit(step), jax.jit(self._make_expert(moves))

    def _make_expert(self, moves: Augment) -> Expert:
        model, real, spec = self.setup.model, self.real, self.experts
        augment = lambda key, batch: batch._replace(image=moves(key, batch.image))
        train = plain_step(
            model, self.expert_tx, real.objective, real.attack, augment, real.attack_bn
        )
        return make_expert(self.fresh, train, spec["epochs"], spec["batch_size"])

    @property
    def _expert_work(self) -> float:
        images = len(self.setup.splits.train)
        return self.experts["epochs"] * images * self.real.gradients

    def work(self, ipc: int) -> float:
        """As `Distiller`; experts count in every set that needs them, and are skipped
        where another has trained them."""
        experts = self.experts["count"] * self._expert_work
        return experts + self.loop.num_steps * self.loop.work_per_step

    def distil(self, job: Job, variables: PyTree | None) -> np.ndarray:
        """As `Distiller`; there is no teacher."""
        experts = self._experts(job)
        key = rng.purpose_key(job.number, "train")

        def advance(state: TrajectoryState, step: int, count: int):
            found = []
            for at in range(step, step + count):
                segment = draw_segment(experts, *self.segment, seed=job.number, step=at)
                state, facts = self._step(state, segment, key)
                found.append(facts)
            return state, jax.tree.map(lambda *values: jnp.stack(values), *found)

        image = first_images(self.setup, job, self.start)
        state = init_state(image, self.first_rate, self.image_tx, self.rate_tx)
        return np.asarray(self.loop.run(job, "", state, advance).image)

    def _experts(self, job: Job) -> list[np.ndarray]:
        """The experts of this set; those that are missing are trained."""
        stage = f"{self.folder}-set{job.number}"
        folder, count = job.workdir.path / stage, self.experts["count"]
        paths = [expert_path(folder, i) for i in range(count)]
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        # Before the first of them is there: all processes train the same ones.
        sharding.wait_for_all(f"{stage} counted")
        job.progress.skip((count - len(missing)) * self._expert_work)
        images = on_device(self.setup.splits.train) if missing else ()
        key = rng.purpose_key(job.number, "score")
        for number in missing:
            params = self._expert(jax.random.fold_in(key, number), *images)
            if sharding.is_lead():
                folder.mkdir(parents=True, exist_ok=True)
                write_expert(paths[number], params)
            shown = f"{number + 1}/{count}"
            job.progress.update(self._expert_work, stage, shown, {})
            if STOP.asked():
                raise Preempted(f"{stage} expert {shown}")
        sharding.wait_for_all(stage)
        shapes = jax.eval_shape(self.fresh, jax.random.key(0)).params
        size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        return open_experts(paths, size, *self.segment)


def _fingerprint(experts: Mapping[str, Any], ops: Sequence[str]) -> str:
    """Of what an expert comes from, beside the method; how many there are is no part of
    it."""
    alike = {key: value for key, value in experts.items() if key != "count"}
    text = json.dumps([alike, list(ops)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


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
    given = {"setup": setup, "real": real, "make_match": make_match, "passes": passes}
    what = "trajectory of distill.methods"
    return registry.call(what, Trajectories, trajectory, given)
