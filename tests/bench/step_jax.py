"""The package's own training program, a scan over PGD-10 steps, as a plain callable."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses, optim, sharding
from jaxrobust.attacks.pgd import pgd
from jaxrobust.augment import make_augment
from jaxrobust.models import MODELS
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import create_state, init_variables
from jaxrobust.threat import make_threat
from jaxrobust.train_step import Program, StepOptions, make_train_step

STATISTICS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
NUM_STEPS, STEP_SIZE, EPS = 10, 2 / 255, 8 / 255
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4


def make_model(name: str, conv: str = "auto"):
    """The network of the comparison, 10 classes."""
    return MODELS[name](num_classes=10, **STATISTICS, conv=conv)


def make_attack(num_steps: int = NUM_STEPS):
    """PGD as training uses it."""
    return pgd(
        make_threat("linf", EPS),
        losses.cross_entropy,
        STEP_SIZE,
        num_steps,
        start="uniform",
        num_restarts=1,
        keep_best=False,
    )


def make_step(model, num_steps: int = NUM_STEPS):
    """(step, optimiser) of PGD adversarial training without augmentation."""
    attack = make_attack(num_steps)
    rate = optim.scale_by_schedule({"name": "constant"}, LEARNING_RATE, total_steps=1)
    tx = optim.sgd(rate, MOMENTUM, True, WEIGHT_DECAY, True, 0.0)
    return make_train_step(
        model, tx, pgd_at("adv"), attack, all_rows(), *plain_options()
    ), tx


def plain_options():
    """(augment, options): neither augmentation nor averaging nor perturbed weights."""
    augment = make_augment(0, False, 0.0, 0.0, "all", 10, 0)
    return augment, StepOptions("batch", 0.0, 0.0, 0, "batch")


def make_runner(
    name: str, image: np.ndarray, label: np.ndarray, chunk: int, conv: str = "auto"
) -> Callable[[], float]:
    """A function that trains `chunk` steps on one batch u8[B,H,W,C] and blocks."""
    model = make_model(name, conv)
    step, tx = make_step(model)
    mesh = sharding.make_mesh(1)
    program = Program(step, mesh)
    key = jax.random.key(0)
    variables = jax.jit(partial(init_variables, model, image.shape[1:]))(key)
    state = create_state(variables, tx, with_ema=False)
    rows = jnp.tile(jnp.arange(len(image), dtype=jnp.int32), (chunk, 1))
    held = [jax.device_put(state, sharding.replicated(mesh))]
    fixed = (key, jnp.asarray(image), jnp.asarray(label), rows, rows)

    def run() -> float:
        held[0], metrics = program(held[0], *fixed, jnp.ones(rows.shape))
        return float(metrics["loss"][-1])

    return run
