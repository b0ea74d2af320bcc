"""A compiled step does what `Objective.passes` and its attack's gradients say."""

from functools import cache

import jax
import jax.numpy as jnp
import pytest

from jaxrobust import losses, optim, registry
from jaxrobust.attacks.pgd import pgd
from jaxrobust.distill.relabel import student
from jaxrobust.objectives import OBJECTIVES
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import create_state
from jaxrobust.threat import make_threat
from jaxrobust.train_step import StepOptions, make_train_step
from jaxrobust.types import Batch
from tests.tiny_step import CLASSES, NET, SHAPE, VARIABLES, flops

ROWS = 4
CURVATURE = {"curv_weight": 2.0, "curv_h": 0.3, "direction": "gradient"}
RUNNING, BATCH = {"term_bn": "running"}, {"term_bn": "batch"}
SPECS = {
    "curvature": [
        CURVATURE | {"variant": variant} | bn
        for variant in ("squared", "norm", "loss_difference")
        for bn in (RUNNING, BATCH)
    ],
    "gradient_norm": [
        {"grad_weight": 2.0, "variant": "norm"} | bn for bn in (RUNNING, BATCH)
    ],
    "mart": [{"beta": 5.0, "bn_update": "adv"}],
    "pgd_at": [{"bn_update": rule} for rule in ("adv", "clean", "both")],
    "stability": [{"beta": 6.0, "bn_update": "adv"}],
    "standard": [{}],
    "trades": [{"beta": 6.0, "bn_update": rule} for rule in ("adv", "clean", "both")],
}
CASES = [(name, spec) for name, specs in SPECS.items() for spec in specs]
CASES.append(("curvature", SPECS["curvature"][0] | {"curv_weight": 0.0}))


IMAGE = jax.ShapeDtypeStruct((ROWS, *SHAPE), jnp.float32)


def batch_of(image, soft):
    index = jnp.arange(ROWS, dtype=jnp.int32)
    label = index % CLASSES
    target = jax.nn.one_hot(label, CLASSES) if soft else None
    return Batch(image, label, jnp.ones(ROWS), index, target)


def passes_of(objective, steps, awp_gamma=0.0, soft=False):
    """Those of a whole compiled step with PGD of `steps` steps, in plain thirds."""
    return 3 * step_flops(objective, steps, awp_gamma, soft) / plain_flops()


def step_flops(objective, steps, awp_gamma=0.0, soft=False):
    threat, inner = make_threat("linf", 0.1), objective.inner or losses.cross_entropy
    attack = pgd(threat, inner, 0.05, steps, "gaussian", 1, False)
    rate = optim.scale_by_schedule({"name": "constant"}, 0.1, total_steps=1)
    tx = optim.sgd(rate, 0.0, False, 0.0, True, 0.0)
    options = StepOptions("batch", 0.0, awp_gamma, 0, "batch")
    step = make_train_step(
        NET, tx, objective, attack, all_rows(), lambda key, batch: batch, options
    )

    def run(variables, image):
        state = create_state(variables, tx, with_ema=False)
        return step(state, batch_of(image, soft), jax.random.key(0))

    return flops(run, VARIABLES, IMAGE)


@cache
def plain_flops():
    return step_flops(OBJECTIVES["standard"](), 0)


def test_every_objective_is_counted():
    assert set(SPECS) == set(OBJECTIVES)


def test_a_plain_update_is_three_forward_passes():
    forward = lambda variables, image: NET.apply(variables, image, train=False)
    one = flops(forward, VARIABLES, IMAGE)
    assert plain_flops() == pytest.approx(3 * one, rel=0.02)


@pytest.mark.parametrize("name,spec", CASES)
def test_a_step_is_its_attack_and_its_passes(name, spec):
    objective = registry.build("objective", OBJECTIVES, {"name": name, **spec})
    steps = 0 if objective.inner is None else 2
    expected = 2 * steps + objective.passes
    assert passes_of(objective, steps) == pytest.approx(expected, rel=0.03)


def test_a_students_update_is_a_plain_one():
    objective = student(temperature=4.0, t_squared=True)
    counted = passes_of(objective, 0, soft=True)
    assert counted == pytest.approx(objective.passes, rel=0.03)


def test_perturbed_weights_cost_an_update_more():
    counted = passes_of(OBJECTIVES["pgd_at"]("adv"), 2, awp_gamma=0.01)
    assert counted == pytest.approx(2 * 2 + 2 * 3, rel=0.03)
