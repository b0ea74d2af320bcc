"""Train a diffusion model on the training split, sample a pool, write it as shards."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.experimental import multihost_utils

from jaxrobust import optim, registry, rng, sharding
from jaxrobust.data.image_set import ImageSet
from jaxrobust.files import write_json, write_npz
from jaxrobust.generative.denoisers import DENOISERS
from jaxrobust.generative.diffusion import denoiser
from jaxrobust.generative.quality import pool_quality
from jaxrobust.generative.samplers import SAMPLERS
from jaxrobust.generative.schedule import SCHEDULES
from jaxrobust.generative.train import init_state, make_denoise_step
from jaxrobust.loader import Feed, Pool
from jaxrobust.progress import Progress
from jaxrobust.samplers import FixedSampler
from jaxrobust.tasks.card import Check, make_card
from jaxrobust.tasks.fit import Stage, fit
from jaxrobust.tasks.setup import Config, Setup, build_setup
from jaxrobust.train_step import Program
from jaxrobust.types import PyTree, Subset
from jaxrobust.workdir import Workdir

logger = logging.getLogger(__name__)
FOLDER = "generated"
QUALITY_SAMPLE = 4096
NEIGHBOURS = 5


def generate(config: Config, path: str) -> None:
    """The task: leaves `generated/shard-*.npz` and `generated/manifest.json`."""
    started = time.monotonic()
    setup = build_setup(config)
    model = build_denoiser(config["generator"], setup.num_classes)
    workdir = Workdir(path, config)
    stage = generator_stage(config["generator"])
    progress = Progress(stage.work)
    pool = generate_pool(setup, model, workdir, progress)
    progress.close()
    checks = [pool_check(workdir)]
    if sharding.is_lead():
        workdir.write("card.json", make_card(setup, workdir, started, checks))
        logger.info("%d images in %s", len(pool), workdir.path / FOLDER)


def build_denoiser(spec: Config, num_classes: int) -> nn.Module:
    """The denoising network that `config.generator` names, all its names checked."""
    registry.lookup("schedule of the generator", SCHEDULES, spec["schedule"])
    registry.lookup("sampler", SAMPLERS, spec["sampler"])
    return registry.build(
        "denoiser", DENOISERS, spec["denoiser"], num_classes=num_classes
    )


def generator_stage(spec: Config) -> Stage:
    """The plan of training the generator."""
    train = spec["train"]
    return Stage(
        name="generator",
        num_steps=train["num_steps"],
        batch_size=train["batch_size"],
        chunk_steps=train["chunk_steps"],
        checkpoint_every_steps=train["checkpoint_every_steps"],
        probe_every_steps=0,
        keep="last",
        work_per_step=3.0 * train["batch_size"],
    )


def generate_pool(
    setup: Setup, model: nn.Module, workdir: Workdir, progress: Progress
) -> ImageSet:
    """The pool of this run directory, made as far as it is missing."""
    folder = workdir.path / FOLDER
    spec, train = setup.config["generator"], setup.splits.train
    wanted = [_shard_path(folder, i) for i in range(_num_shards(spec))]
    started = time.monotonic()
    stage = generator_stage(spec)
    if all(path.exists() for path in wanted):
        progress.skip(stage.work)
    else:
        params = _train(stage, setup, model, workdir, progress)
        _sample_shards(setup, model, params, folder)
    image, label = _read_shards(wanted)
    provenance = f"diffusion model ({spec['denoiser']['name']}) of {train.provenance}"
    pool = ImageSet(image, label, train.class_names, provenance)
    if sharding.is_lead() and not (folder / "manifest.json").exists():
        seconds = time.monotonic() - started
        write_json(folder / "manifest.json", _facts(setup, pool, seconds))
    _sync("generated pool")
    return pool


def pool_check(workdir: Workdir) -> Check:
    """That no test image is in the pool, from the distances in its manifest."""
    facts = json.loads((workdir.path / FOLDER / "manifest.json").read_text())
    nearest = facts["quality"]["nn_generated_test_min"]
    return Check(
        "no test image in the generated pool",
        nearest > 0,
        f"smallest distance to a test image {nearest:.4f}; memorisation ratio "
        f"{facts['quality']['memorisation_ratio']:.2f}",
        "the generator saw the training split only; ratio 1 = as new as test images",
    )


def _train(
    stage: Stage, setup: Setup, model: nn.Module, workdir: Workdir, progress: Progress
) -> PyTree:
    spec = setup.config["generator"]
    tx = optim.make_optimiser(spec["optim"], stage.num_steps)
    schedule = SCHEDULES[spec["schedule"]]()
    step = make_denoise_step(
        model,
        tx,
        schedule,
        prediction=spec["prediction"],
        ema_decay=spec["train"]["ema_decay"],
    )
    key = rng.purpose_key(spec["seed"], "init")
    state = init_state(model, tx, key, setup.image_shape)
    pool = Pool((setup.splits.train,))
    fitted = fit(
        stage,
        Program(step, setup.mesh),
        sharding.replicate(state, setup.mesh),
        sharding.replicate_key(rng.purpose_key(spec["seed"], "train"), setup.mesh),
        Feed(pool, setup.mesh, setup.config["train"]["device_gb"]),
        FixedSampler(
            Subset.uniform(np.arange(len(pool))), spec["seed"], stage.batch_size
        ),
        workdir,
        progress,
        probe=None,
    )
    return fitted.state.ema["params"]


def _sample_shards(
    setup: Setup, model: nn.Module, params: PyTree, folder: Path
) -> None:
    """Write the missing shards; image i is a function of (params, seed, i)."""
    spec = setup.config["generator"]
    sample = make_sampler(setup, model)
    key = sharding.replicate_key(rng.purpose_key(spec["seed"], "sample"), setup.mesh)
    size = spec["shard_size"]
    for number in range(_num_shards(spec)):
        path = _shard_path(folder, number)
        if path.exists():
            continue
        index = np.arange(number * size, (number + 1) * size, dtype=np.int32)
        label = index % setup.num_classes
        image = np.asarray(sample(params, key, index, label))
        if sharding.is_lead():
            folder.mkdir(parents=True, exist_ok=True)
            write_npz(path, {"image": image, "label": label.astype(np.int64)})
        logger.info("sampled %d of %d images", index[-1] + 1, spec["count"])
    _sync("generated shards")


def make_sampler(setup: Setup, model: nn.Module):
    """Compiled (params, key, index i32[B], label i32[B]) -> images u8[B,H,W,C]."""
    spec = setup.config["generator"]
    schedule = SCHEDULES[spec["schedule"]]()
    sampler = SAMPLERS[spec["sampler"]]

    @jax.jit
    def sample(params: PyTree, key: Array, index: Array, label: Array) -> Array:
        index, label = sharding.split_batch((index, label), setup.mesh)
        predict: Any = partial(model.apply, {"params": params})
        denoise = denoiser(predict, schedule, prediction=spec["prediction"])
        keys = rng.per_example(key, index)
        image = sampler(
            keys, denoise, schedule, label, setup.image_shape, spec["sampler_steps"]
        )
        pixels = jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0).astype(jnp.uint8)
        return sharding.constrain_replicated(pixels, setup.mesh)

    return sample


def _facts(setup: Setup, pool: ImageSet, seconds: float) -> dict[str, Any]:
    """The manifest of the pool: how it was made, of what, and how good it is."""
    spec, splits = setup.config["generator"], setup.splits
    files = {"pool_sha256": pool.fingerprint(), "count": len(pool)}
    per_class = np.bincount(pool.label, minlength=pool.num_classes)
    return {
        **files,
        "trained_on": {
            "sha256": splits.train.fingerprint(),
            "provenance": splits.train.provenance,
            "images": len(splits.train),
        },
        "per_class": dict(zip(pool.class_names, per_class.tolist())),
        "generator": _plain(spec),
        "generator_sha256": hashlib.sha256(repr(_plain(spec)).encode()).hexdigest(),
        "seconds": round(seconds, 1),
        "quality": pool_quality(
            _sample_of(pool),
            _sample_of(splits.train),
            _sample_of(splits.test),
            NEIGHBOURS,
        ),
    }


def _sample_of(images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Up to QUALITY_SAMPLE images in [0,1], drawn at random, with their labels."""
    size = min(QUALITY_SAMPLE, len(images))
    taken = images.take(rng.host_choice(0, 0, len(images), size))
    return np.asarray(taken.image, np.float32) / 255.0, taken.label


def _read_shards(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for path in paths:
        with np.load(path) as shard:
            images.append(shard["image"])
            labels.append(shard["label"].astype(np.int32))
    return np.concatenate(images), np.concatenate(labels)


def _num_shards(spec: Config) -> int:
    return -(-spec["count"] // spec["shard_size"])


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.npz"


def _plain(value: Any) -> Any:
    """Mappings and tuples as dicts and lists, ready for JSON."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _sync(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
