"""From a trained denoiser to shards of images; what is already there stays."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from jaxrobust import data, registry, rng, sharding
from jaxrobust.data.image_set import UNLABELLED
from jaxrobust.errors import UserError
from jaxrobust.files import write_npz
from jaxrobust.generative.diffusion import PREDICTIONS, Prediction, denoiser, guided
from jaxrobust.generative.samplers import EVALUATIONS, SAMPLERS, Sampler
from jaxrobust.generative.schedule import SCHEDULES, Schedule
from jaxrobust.generative.times import TIMES
from jaxrobust.progress import Progress
from jaxrobust.tasks.setup import Config
from jaxrobust.types import PyTree

logger = logging.getLogger(__name__)


class Origin(Protocol):
    """What a generator starts from; a `Setup` is one."""

    @property
    def config(self) -> Config:
        """With "generator" and "train.device_gb"."""
        ...

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        ...

    @property
    def splits(self) -> data.Splits:
        """The images."""
        ...


class Labels(NamedTuple):
    """What the network is told of the classes: nothing where `num_classes` is 0."""

    num_classes: int
    drop_percent: float
    guidance: float

    @property
    def conditional(self) -> bool:
        """Whether images are made by class."""
        return self.num_classes > 0


class Diffusion(NamedTuple):
    """The names of `config.generator` as functions."""

    schedule: Schedule
    prediction: Prediction
    sampler: Sampler
    times: np.ndarray


def build_labels(spec: Config, num_classes: int) -> Labels:
    """The rules of `config.generator.labels`.

    An unconditional network has one class, the unknown one, which every label becomes.
    """
    rules = spec["labels"]
    if not rules["conditional"]:
        return Labels(0, 100.0, 1.0)
    labels = Labels(num_classes, rules["drop_percent"], rules["guidance"])
    if labels.guidance != 1.0 and not labels.drop_percent > 0:
        raise UserError(
            "generator.labels.guidance mixes in the prediction for an unknown class, "
            "which training must show: set generator.labels.drop_percent, such as 10"
        )
    return labels


def build_diffusion(spec: Config) -> Diffusion:
    """The schedule, prediction, sampler and times that `config.generator` names."""
    schedule = registry.build(
        "schedule of the generator", SCHEDULES, _named(spec["schedule"])
    )
    steps = spec["sampler_steps"]
    if not isinstance(steps, Mapping):
        steps = {"name": "uniform", "num_steps": steps}
    return Diffusion(
        schedule=schedule,
        prediction=registry.build(
            "prediction", PREDICTIONS, _named(spec["prediction"])
        ),
        sampler=registry.lookup("sampler", SAMPLERS, spec["sampler"]),
        times=registry.build("sampler_steps", TIMES, steps, schedule=schedule),
    )


def image_work(spec: Config, unit: float) -> float:
    """The work of sampling an image where a forward pass is the work `unit`."""
    passes = EVALUATIONS[spec["sampler"]](len(build_diffusion(spec).times))
    both = spec["labels"]["guidance"] != 1.0
    return passes * (1 + both) * unit


def sample_shards(
    origin: Origin,
    model: nn.Module,
    params: PyTree,
    folder: Path,
    progress: Progress,
    unit: float,
) -> None:
    """Write the missing shards; image i is a function of (params, seed, i). A forward
    pass of the model is the work `unit`.

    A shard holds `image` u8[n,H,W,C], `index` int64[n], `seed` int64[] and, where the
    network knows classes, `label` int64[n]. Without `label` no data source reads it:
    an unconditional pool must be labelled before anything trains on it.
    """
    spec = origin.config["generator"]
    sample = make_sampler(origin, model)
    conditional = build_labels(spec, origin.splits.num_classes).conditional
    key = sharding.replicate_key(rng.purpose_key(spec["seed"], "sample"), origin.mesh)
    size, count, work = spec["shard_size"], spec["count"], image_work(spec, unit)
    for number, path in enumerate(shard_paths(spec, folder)):
        kept = min(size, count - number * size)
        if path.exists():
            progress.skip(kept * work)
            continue
        index = np.arange(number * size, (number + 1) * size, dtype=np.int32)
        label = index % origin.splits.num_classes
        image = np.asarray(sample(params, key, index, label))
        # The last shard is sampled whole, to compile nothing new, and cut.
        arrays = {"image": image, "index": index.astype(np.int64)}
        if conditional:
            arrays["label"] = label.astype(np.int64)
        arrays = {name: array[:kept] for name, array in arrays.items()}
        if sharding.is_lead():
            folder.mkdir(parents=True, exist_ok=True)
            write_npz(path, {**arrays, "seed": np.array(spec["seed"], np.int64)})
        progress.update(kept * work, "sampling", f"{number * size + kept}/{count}", {})
    sharding.wait_for_all("generated shards")


def make_sampler(origin: Origin, model: nn.Module):
    """Compiled (params, key, index i32[B], label i32[B]) -> images u8[B,H,W,C]."""
    spec = origin.config["generator"]
    diffusion = build_diffusion(spec)
    labels = build_labels(spec, origin.splits.num_classes)

    @jax.jit
    def sample(params: PyTree, key: Array, index: Array, label: Array) -> Array:
        index, label = sharding.split_batch((index, label), origin.mesh)
        label = label if labels.conditional else jnp.zeros_like(label)
        predict: Any = partial(model.apply, {"params": params})
        predict = guided(predict, labels.num_classes, labels.guidance)
        denoise = denoiser(predict, diffusion.schedule, diffusion.prediction)
        image = diffusion.sampler(
            rng.per_example(key, index),
            denoise,
            diffusion.schedule,
            label,
            origin.splits.image_shape,
            diffusion.times,
        )
        pixels = jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0).astype(jnp.uint8)
        return sharding.constrain_replicated(pixels, origin.mesh)

    return sample


def shard_paths(spec: Config, folder: Path) -> list[Path]:
    """All shards that a finished pool has."""
    count = -(-spec["count"] // spec["shard_size"])
    return [folder / f"shard-{number:05d}.npz" for number in range(count)]


def read_shards(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(image u8[N,H,W,C], label i32[N]); UNLABELLED where a shard has no labels."""
    images, labels = [], []
    for path in paths:
        with np.load(path) as shard:
            image = shard["image"]
            known = "label" in shard.files
            label = shard["label"] if known else np.full(len(image), UNLABELLED)
        images.append(image)
        labels.append(label.astype(np.int32))
    return np.concatenate(images), np.concatenate(labels)


def _named(spec: Any) -> Mapping[str, Any]:
    """A part without options may be given by its name alone."""
    return spec if isinstance(spec, Mapping) else {"name": spec}
