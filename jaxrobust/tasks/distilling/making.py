"""What ways to distil share: the set to make, and a loop that a kill does not undo."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from jaxrobust import rng, sharding
from jaxrobust.data.image_set import ImageSet, gather
from jaxrobust.distill.images import noise_images
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.files import write_npz
from jaxrobust.loader import to_unit
from jaxrobust.progress import Progress
from jaxrobust.state import create_state, init_variables
from jaxrobust.tasks.distilling.picks import FIRST, class_rows, random_rows
from jaxrobust.tasks.fit import STOP, Preempted
from jaxrobust.tasks.setup import Setup
from jaxrobust.types import PyTree, TrainState
from jaxrobust.workdir import Workdir

logger = logging.getLogger(__name__)
FOLDER = "distilled"
STARTS = ("noise", "real")
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One set of images to make: `ipc` of each class, by everything that is drawn from
    the seed `number`. `name` is its file in `distilled/`."""

    name: str
    ipc: int
    number: int
    workdir: Workdir
    progress: Progress

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.workdir.path / FOLDER


class Distiller(Protocol):
    """A way to distil the training images of a run.

    `soft`: networks learn from its images what a teacher says of them; the teacher is
    then asked for by `distil` as well.
    """

    soft: bool

    def work(self, ipc: int) -> float:
        """What a set takes, in forward passes of one image."""
        ...

    def distil(self, job: Job, variables: PyTree | None) -> np.ndarray:
        """Images f32[K,ipc,H,W,C] in [0,1], row k of class k; `variables` are the
        teacher's weights where there is one."""
        ...


@dataclass(frozen=True)
class Loop:
    """`num_steps` of something on the device, `chunk_steps` at a time; each worth
    `work_per_step`."""

    num_steps: int
    chunk_steps: int
    work_per_step: float

    def run(
        self,
        job: Job,
        part: str,
        state: T,
        advance: Callable[[T, int, int], tuple[T, dict[str, Array]]],
    ) -> T:
        """From `state`, or from where the last chunk left it on disk, to the end.

        `advance(state, step, count)` takes `count` steps from `step` and gives numbers
        f32[count]. Raises `UserError` where they are not finite, and `Preempted` after
        saving when SIGTERM came.
        """
        path = job.folder / f"{job.name}{part}.state.npz"
        stage = f"{FOLDER}/{job.name}{part}"
        state, step = _read(path, state)
        # Before the file is written anew: all processes begin at the same step.
        sharding.wait_for_all(f"{stage} read")
        job.progress.skip(step * self.work_per_step)
        while step < self.num_steps:
            count = min(self.chunk_steps, self.num_steps - step)
            started = time.monotonic()
            state, history = advance(state, step, count)
            facts = {name: np.asarray(values) for name, values in history.items()}
            _check_finite(stage, step, facts)
            step += count
            values = {name: float(value.mean()) for name, value in facts.items()}
            rate = {"steps_per_second": count / (time.monotonic() - started)}
            job.workdir.log_metrics(stage, step, {**values, **rate})
            shown = f"{step}/{self.num_steps}"
            job.progress.update(count * self.work_per_step, stage, shown, values)
            _write(path, state, step)
            if STOP.asked():
                raise Preempted(f"{stage} step {step}")
        return state


def check_start(start: str) -> None:
    """Raises `UserError` unless `first_images` knows this start."""
    if start not in STARTS:
        raise unknown_name("start of distilled images", start, STARTS)


def first_images(setup: Setup, job: Job, start: str) -> Array:
    """The images f32[K,ipc,H,W,C] that matching begins with: noise, or real images at
    random."""
    splits, model = setup.splits, setup.model
    shape = (splits.num_classes, job.ipc, *splits.image_shape)
    if start == "noise":
        key = rng.purpose_key(job.number, "sample")
        return noise_images(key, shape, model.mean, model.std)
    own = class_rows(splits.train.label, splits.num_classes)
    rows = random_rows(own, job.ipc, job.number, FIRST)
    image = gather(splits.train.image, rows.reshape(-1))
    return to_unit(jnp.asarray(image)).reshape(shape)


def on_device(images: ImageSet) -> tuple[Array, Array]:
    """All images u8[N,H,W,C] and their labels i32[N], in the memory of the device."""
    image = gather(images.image, np.arange(len(images)))
    return jnp.asarray(image), jnp.asarray(images.label)


def fresh_network(
    model: nn.Module, image_shape: tuple[int, ...], tx: optax.GradientTransformation
) -> Callable[[Array], TrainState]:
    """From a key to a network like `model` with new weights, for `tx` to train."""

    def fresh(key: Array) -> TrainState:
        variables = init_variables(model, image_shape, key)
        return create_state(variables, tx, with_ema=False)

    return fresh


def forget(job: Job) -> None:
    """Remove what the loops of a finished set kept on their way."""
    if sharding.is_lead():
        for path in job.folder.glob(f"{job.name}*.state.npz"):
            path.unlink()


def _write(path: Path, state: Any, step: int) -> None:
    if sharding.is_lead():
        leaves = map(np.asarray, jax.tree.leaves(state))
        arrays = {f"leaf{i}": leaf for i, leaf in enumerate(leaves)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(path, {**arrays, "step": np.array(step)})


def _read(path: Path, state: T) -> tuple[T, int]:
    """The tree that was kept in the shape of `state`, and its step; else `state`, 0."""
    if not path.exists():
        return state, 0
    leaves, form = jax.tree.flatten(state)
    with np.load(path) as stored:
        kept = [jnp.asarray(stored[f"leaf{i}"]) for i in range(len(leaves))]
        step = int(stored["step"])
    logger.info("resuming %s at step %d", path.name.partition(".")[0], step)
    return jax.tree.unflatten(form, kept), step


def _check_finite(stage: str, step: int, facts: dict[str, np.ndarray]) -> None:
    for name, values in facts.items():
        finite = np.isfinite(values)
        if not finite.all():
            raise UserError(
                f"{stage}: {name} is not finite at step {step + int(np.argmin(finite))}"
                ": lower the learning rate of distill.methods"
            )
