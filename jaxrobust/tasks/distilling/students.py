"""Fresh networks that learn from a few images, with soft labels or hard ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax import Array

from jaxrobust import optim, rng, sharding
from jaxrobust.attacks.noise import no_attack
from jaxrobust.data.image_set import ImageSet
from jaxrobust.distill.relabel import (
    MIXES,
    make_geometry,
    make_relabel,
    make_views,
    student,
)
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.loader import Feed, Pool, to_unit
from jaxrobust.objectives import Objective
from jaxrobust.objectives.standard import standard
from jaxrobust.progress import Progress
from jaxrobust.samplers import FixedSampler
from jaxrobust.state import bind
from jaxrobust.tasks.distilling.making import fresh_network
from jaxrobust.tasks.fit import Fitted, Stage, fit
from jaxrobust.tasks.flops import classifier_flops
from jaxrobust.tasks.setup import Setup
from jaxrobust.train_step import Program, plain_step
from jaxrobust.types import Batch, LogitsFn, PyTree, Subset, TrainState
from jaxrobust.workdir import Workdir


class Lesson(NamedTuple):
    """What one student learns by: arguments of a program that serves all of them."""

    key: Array
    teacher: LogitsFn | None
    image: Array
    """All images, u8[N,H,W,C]: a view may mix in any of them."""


@dataclass
class Students:
    """The recipe `config.student` for networks like `model`, labelled by ones like that
    of `setup`; compiles once for each number of images and kind of label."""

    setup: Setup
    spec: Mapping[str, Any]
    model: nn.Module
    _programs: dict[bool, Program] = field(default_factory=dict)

    def __post_init__(self):
        self._tx = optim.make_optimiser(self.spec["optim"], self.spec["num_steps"])
        shape = self.setup.splits.image_shape
        self._fresh = jax.jit(fresh_network(self.model, shape, self._tx))
        if self.spec["mix"] not in MIXES:
            raise unknown_name("student.mix", self.spec["mix"], MIXES)
        if not self.spec["temperature"] > 0:
            raise UserError(
                "student.temperature must be above 0: 1 leaves labels alone"
            )

    def batch_size(self, images: int) -> int:
        """Of so many images: all of them, or `student.batch_size`."""
        size = min(self.spec["batch_size"], images)
        sharding.check_batch_size(size, self.setup.mesh)
        return size

    def work(self, images: int, soft: bool) -> float:
        """The work of one student in forward passes of the run's own network: an update
        is 3 of its own, a teacher's word another."""
        return self.spec["num_steps"] * self._step_work(images, soft)

    def _step_work(self, images: int, soft: bool) -> float:
        return self.batch_size(images) * (3.0 * self._cost + soft)

    @cached_property
    def _cost(self) -> float:
        """A forward pass in units of one of the run's own network."""
        if self.model == self.setup.model:
            return 1.0
        own = classifier_flops(self.setup)
        other = classifier_flops(replace(self.setup, model=self.model))
        return other / own if own and other else 1.0

    def train(
        self,
        stage: str,
        images: ImageSet,
        teacher: PyTree | None,
        seed: int,
        workdir: Workdir,
        progress: Progress,
    ) -> Fitted:
        """A fresh network of `seed`, trained on `images`: on what the teacher with
        these variables says of them, or on their own labels."""
        setup, spec, soft = self.setup, self.spec, teacher is not None
        size = self.batch_size(len(images))
        pool = Pool((images,))
        feed = Feed(pool, setup.mesh, device_gb=float("inf"))
        lesson: Any = Lesson(
            sharding.replicate_key(rng.purpose_key(seed, "train"), setup.mesh),
            bind(setup.model, teacher, "running") if soft else None,
            feed(np.arange(1))[0],
        )
        return fit(
            Stage(
                name=stage,
                num_steps=spec["num_steps"],
                batch_size=size,
                chunk_steps=spec["chunk_steps"],
                checkpoint_every_steps=0,
                async_checkpoint=setup.config["train"]["async_checkpoint"],
                probe_every_steps=0,
                keep="last",
                work_per_step=self._step_work(len(images), soft),
            ),
            self._program(soft),
            self._start(seed),
            lesson,
            feed,
            FixedSampler(Subset.uniform(np.arange(len(images))), seed, size),
            workdir,
            progress,
            probe=None,
            tracer=None,
        )

    def _start(self, seed: int) -> TrainState:
        mesh = self.setup.mesh
        key = sharding.replicate_key(rng.purpose_key(seed, "init"), mesh)
        return sharding.replicate(self._fresh(key), mesh)

    def _program(self, soft: bool) -> Program:
        if soft not in self._programs:
            step = self._soft_step() if soft else self._hard_step()
            self._programs[soft] = Program(step, self.setup.mesh)
        return self._programs[soft]

    def _geometry(self):
        spec = self.spec
        return make_geometry(
            spec["least_scale"], tuple(spec["ratio"]), spec["crop_pad"], spec["flip"]
        )

    def _soft_step(self) -> Any:
        """What the teacher says of a view is asked of it anew, in every step."""
        spec = self.spec
        objective = student(spec["temperature"], spec["t_squared"])
        views = make_views(self._geometry(), spec["mix"], spec["alpha"])

        def step(state: TrainState, batch: Batch, lesson: Lesson):
            assert lesson.teacher is not None
            image = to_unit(lesson.image)
            relabel = make_relabel(lesson.teacher, views, image, spec["temperature"])
            return self._learn(objective, relabel)(state, batch, lesson.key)

        return step

    def _hard_step(self) -> Any:
        """The same crops and flips; nothing is mixed, as no label says by how much."""
        geometry = self._geometry()

        def move(key: Array, batch: Batch) -> Batch:
            keys = rng.per_example(key, batch.index)
            return batch._replace(image=geometry(keys, batch.image))

        learn = self._learn(standard(), move)
        return lambda state, batch, lesson: learn(state, batch, lesson.key)

    def _learn(self, objective: Objective, augment):
        return plain_step(
            self.model, self._tx, objective, no_attack(), augment, "batch"
        )
