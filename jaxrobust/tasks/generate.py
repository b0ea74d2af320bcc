"""Train a diffusion model on the training split, sample a pool, write it as shards."""

import logging
import time
from dataclasses import dataclass

import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from jaxrobust import data, optim, registry, rng, sharding
from jaxrobust.data.image_set import ImageSet
from jaxrobust.errors import UserError
from jaxrobust.files import write_json
from jaxrobust.generative.denoisers import DENOISERS
from jaxrobust.generative.train import init_state, make_denoise_step
from jaxrobust.loader import Feed, Pool
from jaxrobust.progress import Progress
from jaxrobust.samplers import FixedSampler
from jaxrobust.tasks.card import make_card
from jaxrobust.tasks.fit import Stage, fit
from jaxrobust.tasks.pool_facts import (
    FOLDER,
    pool_check,
    pool_facts,
    write_pictures,
)
from jaxrobust.tasks.sampling import (
    Origin,
    build_diffusion,
    build_labels,
    image_work,
    read_shards,
    sample_shards,
    shard_paths,
)
from jaxrobust.tasks.setup import Config
from jaxrobust.threat import ThreatModel, make_threat
from jaxrobust.train_step import Program
from jaxrobust.types import PyTree, Subset
from jaxrobust.workdir import Workdir

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What a generator learns from, without any classifier; an `Origin`."""

    config: Config
    mesh: Mesh
    splits: data.Splits
    threat: ThreatModel


def generate(config: Config, path: str) -> None:
    """The task: `generated/shard-*.npz`, `generated/manifest.json` and two pictures.

    Without labels in the shards (`labels.conditional` False) the pool waits for a
    labelling: every data source refuses it until then.
    """
    started = time.monotonic()
    mesh = sharding.make_mesh(config["num_devices"])
    sharding.check_batch_size(config["generator"]["train"]["batch_size"], mesh)
    sharding.check_batch_size(config["generator"]["shard_size"], mesh)
    threat = make_threat(**config["threat"])
    origin = Source(config, mesh, data.load_splits(**config["data"]), threat)
    model = build_denoiser(config["generator"], origin.splits.num_classes)
    workdir = Workdir(path, config)
    progress = Progress(generator_work(config["generator"], 1.0))
    pool = generate_pool(origin, model, workdir, progress, 1.0)
    progress.close()
    checks = [pool_check(workdir)]
    if sharding.is_lead():
        write_pictures(pool, origin.splits.train, workdir.path / "figures")
        workdir.write("card.json", make_card(origin, workdir, started, checks))
        logger.info("%d images in %s", len(pool), workdir.path / FOLDER)


def build_denoiser(spec: Config, num_classes: int) -> nn.Module:
    """The denoising network that `config.generator` names, all its names checked."""
    build_diffusion(spec)
    optim.make_optimiser(spec["optim"], total_steps=1)
    known = build_labels(spec, num_classes).num_classes
    return registry.build("denoiser", DENOISERS, spec["denoiser"], num_classes=known)


def generator_stage(spec: Config, unit: float, in_background: bool) -> Stage:
    """The plan of training the generator; a forward pass of it is the work `unit`, and
    checkpoints are written `in_background` or waited for."""
    train = spec["train"]
    return Stage(
        name="generator",
        num_steps=train["num_steps"],
        batch_size=train["batch_size"],
        chunk_steps=train["chunk_steps"],
        checkpoint_every_steps=train["checkpoint_every_steps"],
        async_checkpoint=in_background,
        probe_every_steps=0,
        keep="last",
        work_per_step=3.0 * train["batch_size"] * unit,
    )


def generator_work(spec: Config, unit: float) -> float:
    """The work of training the generator and of sampling the pool."""
    # How checkpoints are written is no part of the work.
    training = generator_stage(spec, unit, in_background=True).work
    return training + spec["count"] * image_work(spec, unit)


def check_conditional(origin: Origin) -> None:
    """Raises `UserError` where the generator's images will have no labels."""
    labels = build_labels(origin.config["generator"], origin.splits.num_classes)
    if not labels.conditional:
        raise UserError(
            "a pool without labels cannot be trained on: set "
            "generator.labels.conditional, or label.use = predicted in configs/proxy.py"
        )


def generate_pool(
    origin: Origin,
    model: nn.Module,
    workdir: Workdir,
    progress: Progress,
    unit: float,
) -> ImageSet:
    """The pool of this run directory, made as far as it is missing; a forward pass of
    `model` is the work `unit`."""
    folder = workdir.path / FOLDER
    spec, train = origin.config["generator"], origin.splits.train
    wanted = shard_paths(spec, folder)
    started = time.monotonic()
    stage = generator_stage(spec, unit, origin.config["train"]["async_checkpoint"])
    if all(path.exists() for path in wanted):
        progress.skip(generator_work(spec, unit))
    else:
        params = _train(stage, origin, model, workdir, progress)
        sample_shards(origin, model, params, folder, progress, unit)
    image, label = read_shards(wanted)
    provenance = f"diffusion model ({spec['denoiser']['name']}) of {train.provenance}"
    pool = ImageSet(image, label, train.class_names, provenance)
    if sharding.is_lead() and not (folder / "manifest.json").exists():
        seconds = time.monotonic() - started
        write_json(folder / "manifest.json", pool_facts(origin, pool, seconds))
    sharding.wait_for_all("generated pool")
    return pool


def _train(
    stage: Stage, origin: Origin, model: nn.Module, workdir: Workdir, progress: Progress
) -> PyTree:
    spec, mesh = origin.config["generator"], origin.mesh
    tx = optim.make_optimiser(spec["optim"], stage.num_steps)
    labels = build_labels(spec, origin.splits.num_classes)
    diffusion = build_diffusion(spec)
    step = make_denoise_step(
        model,
        tx,
        diffusion.schedule,
        diffusion.prediction,
        ema_decay=spec["train"]["ema_decay"],
        unknown=labels.num_classes,
        label_drop_percent=labels.drop_percent,
    )
    key = rng.purpose_key(spec["seed"], "init")
    state = init_state(model, tx, key, origin.splits.image_shape)
    pool = Pool((origin.splits.train,))
    whole = Subset.uniform(np.arange(len(pool)))
    fitted = fit(
        stage,
        Program(step, mesh),
        sharding.replicate(state, mesh),
        sharding.replicate_key(rng.purpose_key(spec["seed"], "train"), mesh),
        Feed(pool, mesh, origin.config["train"]["device_gb"]),
        FixedSampler(whole, spec["seed"], stage.batch_size),
        workdir,
        progress,
        probe=None,
        tracer=None,
    )
    return fitted.state.ema["params"]
