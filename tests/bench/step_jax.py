"""The package's own training program, a scan over its steps, as a plain callable."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses, optim, sharding
from jaxrobust.attacks.fgsm import nfgsm
from jaxrobust.attacks.pgd import pgd
from jaxrobust.augment import make_augment
from jaxrobust.models import MODELS
from jaxrobust.objectives.base import Objective
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.objectives.trades import trades
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import create_state, init_variables
from jaxrobust.threat import make_threat
from jaxrobust.train_step import Program, StepOptions, make_train_step
from jaxrobust.types import Attack

STATISTICS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
NUM_STEPS, STEP_SIZE, EPS = 10, 2 / 255, 8 / 255
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4


NETS = {
    "wrn28_10": ("wide_resnet", {"depth": 28, "width": 10}),
    "wrn28_2": ("wide_resnet", {"depth": 28, "width": 2}),
    "convnet32": ("convnet", {"widths": (32, 32, 32)}),
    "tiny": ("convnet", {"widths": (8, 8)}),
}
"""Networks of the comparison with options of their own."""


def make_model(name: str, conv: str = "auto", **options):
    """The network of the comparison, 10 classes."""
    factory, own = NETS.get(name, (name, {}))
    given = {**STATISTICS, "conv": conv, **own, **options}
    return MODELS[factory](num_classes=10, **given)


def make_attack(
    num_steps: int = NUM_STEPS, loss=losses.cross_entropy, start: str = "uniform"
):
    """PGD as training uses it."""
    return pgd(
        make_threat("linf", EPS),
        loss,
        STEP_SIZE,
        num_steps,
        start=start,
        num_restarts=1,
        keep_best=False,
    )


class Method(NamedTuple):
    """An objective with its attack, and how many gradients by the image that takes."""

    objective: Objective
    attack: Attack
    gradients: int

    @property
    def passes(self) -> float:
        """Forward passes of a step: the least that it needs."""
        return 2 * self.gradients + self.objective.passes


def make_method(name: str, num_steps: int = NUM_STEPS) -> Method:
    """PGD adversarial training, TRADES or N-FGSM, as published for CIFAR-10."""
    if name == "nfgsm":
        threat = make_threat("linf", EPS)
        single = nfgsm(threat, losses.cross_entropy, noise_ratio=2.0, step_ratio=1.0)
        return Method(pgd_at("adv"), single, 1)
    if name == "trades":
        objective = trades(beta=6.0, bn_update="adv")
        attack = make_attack(num_steps, objective.inner, "gaussian")
        return Method(objective, attack, num_steps)
    return Method(pgd_at("adv"), make_attack(num_steps), num_steps)


def make_step(model, num_steps: int = NUM_STEPS, method: str = "pgd_at"):
    """(step, optimiser) of adversarial training without augmentation."""
    chosen = make_method(method, num_steps)
    rate = optim.scale_by_schedule({"name": "constant"}, LEARNING_RATE, total_steps=1)
    tx = optim.sgd(rate, MOMENTUM, True, WEIGHT_DECAY, True, 0.0)
    return make_train_step(
        model, tx, chosen.objective, chosen.attack, all_rows(), *plain_options()
    ), tx


def plain_options(devices: int = 1):
    """(augment, options): neither augmentation nor averaging nor perturbed weights."""
    mesh = sharding.make_mesh(devices)
    augment = make_augment(0, False, 0.0, 0.0, "all", 10, 0)
    return augment, StepOptions("batch", 0.0, 0.0, 0, "batch", mesh=mesh)


def make_runner(
    name: str,
    image: np.ndarray,
    label: np.ndarray,
    chunk: int,
    conv: str = "auto",
    method: str = "pgd_at",
    devices: int = 1,
    dtype: str = "float32",
) -> Callable[[], float]:
    """As `runner`, of the step that is compared."""
    model = make_model(name, conv, dtype=dtype)
    made = make_step(model, method=method)
    return runner(model, *made, image, label, chunk, devices)


def runner(
    model, step, tx, image: np.ndarray, label: np.ndarray, chunk: int, devices: int = 1
) -> Callable[[], float]:
    """A function that trains `chunk` steps on one batch u8[B,H,W,C], shared between
    `devices`, and blocks."""
    mesh = sharding.make_mesh(devices)
    program = Program(step, mesh)
    key = jax.random.key(0)
    variables = jax.jit(partial(init_variables, model, image.shape[1:]))(key)
    state = create_state(variables, tx, with_ema=False)
    rows = jnp.tile(jnp.arange(len(image), dtype=jnp.int32), (chunk, 1))
    held = [jax.device_put(state, sharding.replicated(mesh))]
    fixed = sharding.replicate((image, label, rows, rows, jnp.ones(rows.shape)), mesh)
    key = sharding.replicate_key(key, mesh)

    def run() -> float:
        held[0], metrics = program(held[0], key, *fixed)
        return float(metrics["loss"][-1])

    return run
