"""From a configuration to the objects of a run; every mistake shows here, before a file
is written."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from jaxrobust import data, losses, metrics, optim, registry, sharding
from jaxrobust.attacks import ATTACKS
from jaxrobust.attacks.pgd import pgd_split
from jaxrobust.augment import Augment, make_augment
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.evaluators import AccuracyPass
from jaxrobust.models import MODELS
from jaxrobust.objectives import OBJECTIVES, Objective
from jaxrobust.perceptual import build_perceptual
from jaxrobust.selection import in_batch
from jaxrobust.selection.in_batch import Craft, Select
from jaxrobust.tasks.batches import check_batches
from jaxrobust.threat import ThreatModel, make_threat
from jaxrobust.train_step import make_craft
from jaxrobust.types import Attack

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Selection:
    """Selection inside of a step: one function for each share of rows. Several shares
    adapt to accuracy; `spec` is that of the configuration."""

    spec: Config
    selects: dict[float, Select]

    @property
    def adaptive(self) -> bool:
        """Whether the share changes while training."""
        return len(self.selects) > 1


@dataclass(frozen=True)
class Method:
    """A way to train: an objective with its attack, and how they meet BatchNorm."""

    name: str
    objective: Objective
    attack: Attack
    attack_bn: str
    awp_gamma: float
    awp_start_percent: float
    attack_steps: float
    """Gradients of the attack: 1 in FGSM-RS and N-FGSM."""
    selection: Selection

    @property
    def craft(self) -> Craft:
        """How a step of it attacks."""
        return make_craft(self.objective, self.attack, slices=1, mesh=None)

    @property
    def update_passes(self) -> float:
        """Cost of the update in forward passes; perturbed weights make it twice."""
        return self.objective.passes * (2 if self.awp_gamma else 1)

    @property
    def gradients(self) -> float:
        """Cost of a step in forward passes: the update, 2 for an attack gradient, less
        what selection saves."""
        spec = self.selection.spec
        return in_batch.passes(spec, self.attack_steps, self.update_passes)

    @property
    def relative_cost(self) -> float:
        """The same as a share of learning from all rows."""
        return self.gradients / (2 * self.attack_steps + self.update_passes)

    @property
    def single_step(self) -> bool:
        """Whether the attack takes one gradient."""
        return self.attack_steps == 1


@dataclass(frozen=True)
class Setup:
    """What every task on images starts from."""

    config: Config
    mesh: Mesh
    splits: data.Splits
    model: nn.Module
    threat: ThreatModel
    methods: dict[str, Method]
    evaluations: dict[str, AccuracyPass]


def build_setup(config: Config) -> Setup:
    """Build and check everything that needs no training."""
    mesh = sharding.make_mesh(config["num_devices"])
    check_batches(config, mesh)
    threat = make_threat(**config["threat"])
    splits = data.load_splits(**config["data"])
    train = config["train"]
    if train["keep"] not in ("last", "best_val"):
        raise unknown_name("train.keep", train["keep"], ("last", "best_val"))
    if train["keep"] == "best_val" and not (
        len(splits.val) and train["probe_every_steps"]
    ):
        raise UserError(
            "train.keep = best_val needs data.val_count and train.probe_every_steps "
            "above 0: a checkpoint is never chosen by test images"
        )
    registry.lookup("train.weight_norm", metrics.MEANS, train["weight_norm"])
    # Built once to be checked; the trainer builds them for their own number of steps.
    optim.make_optimiser(config["optim"], total_steps=1)
    build_augment(config["augment"], splits.num_classes, num_original=1)
    return Setup(
        config=config,
        mesh=mesh,
        splits=splits,
        model=build_model(config["model"], splits.train),
        threat=threat,
        methods={
            name: build_method(name, spec, threat)
            for name, spec in config["methods"].items()
        },
        evaluations=build_evaluations(config["eval"], threat, mesh),
    )


def build_augment(spec: Config, num_classes: int, num_original: int) -> Augment:
    """The augmentation of `config.augment`."""
    return make_augment(**spec, num_classes=num_classes, num_original=num_original)


def build_model(spec: Config, train: data.ImageSet) -> nn.Module:
    """The network `spec` names; empty `mean` and `std` are taken from the training
    images."""
    spec = dict(spec)
    mean, std = tuple(spec.pop("mean")), tuple(spec.pop("std"))
    if not mean and not std:
        mean, std = channel_statistics(train)
    channels = train.image.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise UserError(
            f"model.mean and model.std have {len(mean)} and {len(std)} entries, the "
            f"images {channels} channels: give one for each, or () to measure them"
        )
    return registry.build(
        "model", MODELS, spec, num_classes=train.num_classes, mean=mean, std=std
    )


def channel_statistics(images: data.ImageSet) -> tuple[tuple, tuple]:
    """Mean and standard deviation of every channel, in [0,1], rounded to 4 digits."""
    pixels = np.asarray(images.image[:50_000], np.float32) / 255.0
    mean, std = pixels.mean((0, 1, 2)), np.maximum(pixels.std((0, 1, 2)), 1e-3)
    rounded = lambda values: tuple(round(float(v), 4) for v in values)
    return rounded(mean), rounded(std)


def build_attack(kind: str, spec: Config, threat: ThreatModel, loss=None) -> Attack:
    """The attack `spec` names; its "loss" key, where it has one, names what it
    maximises."""
    spec = with_features(spec)
    if "loss" in spec:
        loss = registry.lookup("loss", losses.LOSSES, spec.pop("loss"))
    leaf = ATTACKS.get(spec["name"])
    if loss is None and leaf and "loss" in inspect.signature(leaf).parameters:
        raise UserError(
            f"{kind} {spec['name']!r} has nothing to maximise: give it a loss, one of "
            f"{', '.join(sorted(losses.LOSSES))}"
        )
    return registry.build(kind, ATTACKS, spec, threat=threat, loss=loss)


def with_features(spec: Config) -> dict[str, Any]:
    """The spec of an attack with its perceptual `network`, where it has one, loaded."""
    spec = dict(spec)
    if "network" in spec:
        spec["features"] = build_perceptual(spec.pop("network"), build_model)
    return spec


def make_attack(spec: Config, threat: ThreatModel) -> Attack:
    """The attack of `spec` in this ball; a `step_ratio` is a step in units of eps, so
    that one spec serves every radius."""
    spec = dict(spec)
    leaf = ATTACKS.get(spec.get("name", ""))
    own = inspect.signature(leaf).parameters if leaf else {}
    if "step_ratio" in spec and "step_ratio" not in own:
        spec["step_size"] = spec.pop("step_ratio") * threat.eps
    return build_attack("attack", spec, threat)


def build_method(name: str, spec: Config, threat: ThreatModel) -> Method:
    """The method `name` out of `config.methods`."""
    spec = dict(spec)
    try:
        objective = registry.build("objective", OBJECTIVES, spec.pop("objective"))
        attack_spec = spec.pop("attack")
        _check_start(name, objective, attack_spec)
        attack = build_attack("attack", attack_spec, threat, objective.inner)
        method = Method(
            name=name,
            objective=objective,
            attack=attack,
            attack_steps=attack_gradients(attack_spec),
            selection=build_selection(
                spec.pop("select"), attack_spec, objective, threat
            ),
            **spec,
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"config.methods.{name} is incomplete: {error}") from error
    if method.attack_bn not in ("batch", "running"):
        raise unknown_name("attack_bn", method.attack_bn, ("batch", "running"))
    return method


def build_selection(
    spec: Config, attack_spec: Config, objective: Objective, threat: ThreatModel
) -> Selection:
    """The selector `spec` names, once for each of its `sizes` where it has some."""
    given = dict(spec)
    sizes = given.pop("sizes", ())
    if given["name"] == "union" and objective.inner is not losses.cross_entropy:
        raise UserError(
            "the selector union mixes clean and attacked images, each with its label: "
            "it needs the objective pgd_at"
        )
    if sizes and given["name"] != "union":
        raise UserError(
            "only the selector union has sizes: it alone adapts to accuracy"
        )
    split = None
    if attack_spec["name"] == "pgd" and not (
        attack_spec["keep_best"] or attack_spec["num_restarts"] > 1
    ):
        parts = {k: attack_spec[k] for k in ("step_size", "num_steps", "start")}
        split = partial(pgd_split, threat, objective.inner, *parts.values())
    make = lambda spec: registry.build(
        "selector", in_batch.SELECTORS, spec, threat=threat, split=split
    )
    if not sizes:
        return Selection(spec, {spec.get("keep", 1.0): make(given)})
    return Selection(spec, {size: make({**given, "keep": size}) for size in sizes})


def _check_start(name: str, objective: Objective, attack: Config) -> None:
    """Moving away from the clean prediction has zero gradient at the clean image."""
    from_image = attack["name"] == "fgsm" or attack.get("start") == "none"
    if objective.inner is losses.kl_divergence and from_image:
        raise UserError(
            f"config.methods.{name}: an attack on the divergence from the clean "
            "prediction cannot start at the image, where its gradient is zero: use pgd "
            "with start gaussian or uniform"
        )


def build_evaluations(
    spec: Config, threat: ThreatModel, mesh: Mesh
) -> dict[str, AccuracyPass]:
    """The passes of the results table: "clean" and each of `config.eval.attacks`."""
    attacks = {"clean": {"name": "none"}, **spec["attacks"]}
    size = spec["batch_size"]
    return {
        name: build_pass(attack_spec, threat, size, mesh)
        for name, attack_spec in attacks.items()
    }


def build_pass(
    spec: Config,
    threat: ThreatModel,
    batch_size: int,
    mesh: Mesh,
    count_outside: bool = True,
) -> AccuracyPass:
    """The accuracy under the attack of `spec`, in any ball of the norm of `threat`."""
    spec = with_features(spec)  # files are read once, and not while JAX traces
    make_attack(spec, threat)  # so that a mistake shows now
    make = partial(make_attack, spec)
    return AccuracyPass(make, batch_size, mesh, count_outside)


def attack_gradients(spec: Config) -> float:
    """How many gradients by the image an attack takes."""
    if spec["name"] in ("none", "random_noise", "gaussian"):
        return 0.0
    return float(spec.get("num_steps", 1) * spec.get("num_restarts", 1))
