"""SRe2L and CDA: a teacher squeezes the real images, its statistics give others."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import registry, rng
from jaxrobust.distill.crops import make_multi_crop
from jaxrobust.distill.images import noise_images
from jaxrobust.distill.recover import (
    bind_teacher,
    make_advance,
    plan_chunks,
    start,
)
from jaxrobust.errors import UserError
from jaxrobust.tasks.distilling.making import Job, Loop
from jaxrobust.tasks.setup import Method, Setup
from jaxrobust.types import PyTree

FORWARDS = 3.0
"""Passes of a step of recovery: forward, and back to the image."""


class SRe2L:
    """Recovery of every chunk of images from the teacher's BatchNorm statistics."""

    soft = True

    def __init__(
        self,
        setup: Setup,
        real: Method,
        num_steps: int,
        chunk_steps: int,
        learning_rate: float,
        r_bn: float,
        first_weight: float,
        images_per_class: int,
        classes_per_chunk: int,
        view: Mapping[str, Any],
    ):
        self.setup, self.num_steps, self.chunk_steps = setup, num_steps, chunk_steps
        self.images_per_class = images_per_class
        self.classes_per_chunk = classes_per_chunk
        if setup.config["model"].get("norm", "batch") != "batch":
            raise UserError(
                "sre2l recovers images from BatchNorm statistics: set model.norm=batch"
            )
        steps = {"total_steps": num_steps}
        what = "view of distill.methods.sre2l"
        self._advance = make_advance(
            registry.call(what, make_multi_crop, view, steps),
            total_steps=num_steps,
            learning_rate=learning_rate,
            std=jnp.asarray(setup.model.std),
            r_bn=r_bn,
            first_weight=first_weight,
        )

    def work(self, ipc: int) -> float:
        """As `Distiller`."""
        return FORWARDS * self.num_steps * ipc * self.setup.splits.num_classes

    def distil(self, job: Job, variables: PyTree | None) -> np.ndarray:
        """As `Distiller`; every chunk has its own key and file."""
        assert variables is not None, "recovery has a teacher"
        model, splits = self.setup.model, self.setup.splits
        teacher = bind_teacher(model, variables)
        key = rng.purpose_key(job.number, "sample")
        image = np.zeros(
            (job.ipc * splits.num_classes, *splits.image_shape), np.float32
        )
        plan = plan_chunks(
            splits.num_classes, job.ipc, self.images_per_class, self.classes_per_chunk
        )
        for number, chunk in enumerate(plan):
            to_start, to_view = jax.random.split(jax.random.fold_in(key, number))
            shape = (len(chunk), *splits.image_shape)
            state = start(noise_images(to_start, shape, model.mean, model.std))
            label = jnp.asarray(chunk % splits.num_classes, jnp.int32)
            loop = Loop(self.num_steps, self.chunk_steps, FORWARDS * len(chunk))
            step = lambda state, _, count, key=to_view, label=label: self._advance(
                teacher, state, key, label, count
            )
            image[chunk] = loop.run(job, f"-chunk{number:04d}", state, step).image
        # Image i is of class i modulo the classes.
        return image.reshape(job.ipc, splits.num_classes, *splits.image_shape).swapaxes(
            0, 1
        )
