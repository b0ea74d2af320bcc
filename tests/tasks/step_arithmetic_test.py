"""What a compiled program computes is what its method says that it needs, within 5%.

The least is counted by hand, in forward passes of the batch: `Method.gradients`,
`score_passes`, `GradientPass.passes`. Every way to train of every recipe is compiled.
"""

import json
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("ml_collections", reason="recipes are ml_collections configs")

from configs import adversarial, coreset, data_selection, guard
from jaxrobust import losses, optim, registry
from jaxrobust.attacks.fast_lagrangian import fast_lagrangian
from jaxrobust.attacks.pgd import pgd
from jaxrobust.scores import SCORES
from jaxrobust.selection import Frozen, ScoringPass, in_batch
from jaxrobust.sharding import make_mesh
from jaxrobust.state import bind, bind_features, create_state, init_variables
from jaxrobust.tasks.choices.gradients import GradientPass
from jaxrobust.tasks.ranking import score_passes
from jaxrobust.tasks.setup import build_method, build_setup
from jaxrobust.threat import make_threat
from jaxrobust.train_step import StepOptions, make_train_step
from jaxrobust.tree import plain
from jaxrobust.types import Batch
from tests.tiny_step import CLASSES, NET, SHAPE, VARIABLES, flops

ROWS = 20  # whole rows at every share of the recipes
THREAT = make_threat("linf", 0.1)
IMAGE = jax.ShapeDtypeStruct((ROWS, *SHAPE), jnp.float32)
within = partial(pytest.approx, rel=0.05)


def short(spec):
    """Two gradients of an attack are enough, and one pass in vain is then over 5%."""
    spec = json.loads(json.dumps(spec))
    if "num_steps" in spec["attack"]:
        spec["attack"]["num_steps"] = 2
    if "first_steps" in spec["select"]:
        spec["select"]["first_steps"] = 1
    return spec


def methods():
    """{name: spec} of the methods of all recipes; alike but for a share: one."""
    found = {}
    for recipe in (adversarial, data_selection, guard):
        for name, spec in plain(recipe.get_config("").methods).items():
            alike = json.dumps({**spec, "select": {**spec["select"], "keep": None}})
            found[alike] = (name, short(spec))
    return dict(found.values())


METHODS = methods()
PGD = METHODS["pgd_at"]
METHODS["fgsm"] = PGD | {"attack": {"name": "fgsm"}}
METHODS["awp"] = PGD | {"awp_gamma": 0.01}
SPECS = {
    "robust_risk": {"output": "softmax", "combine": "sum"},
    "w_bdy": {"output": "softmax"},
    "w_nat": {"output": "softmax"},
    "clean_error": {},
}
SPECS |= {"input_gradient": {"on": "clean"}, "grand": {"on": "adversarial"}}


@cache
def forward_flops():
    return flops(lambda v, x: NET.apply(v, x, train=False), VARIABLES, IMAGE)


def step_passes(method, select, slices=1):
    """Of a whole compiled step, in forward passes."""
    rate = optim.scale_by_schedule({"name": "constant"}, 0.1, total_steps=1)
    tx = optim.sgd(rate, 0.9, False, 5e-4, True, 0.0)
    options = StepOptions(
        method.attack_bn, 0.9, method.awp_gamma, 0, "global", accumulate=slices
    )
    step = make_train_step(
        NET,
        tx,
        method.objective,
        method.attack,
        select,
        lambda key, batch: batch,
        options,
    )

    def run(variables, image):
        state = create_state(variables, tx, with_ema=True)
        index = jnp.arange(ROWS, dtype=jnp.int32)
        batch = Batch(image, index % CLASSES, jnp.ones(ROWS), index)
        return step(state, batch, jax.random.key(0))

    return flops(run, VARIABLES, IMAGE) / forward_flops()


@pytest.mark.parametrize("name", METHODS)
def test_a_step_does_no_arithmetic_in_vain(name):
    method = build_method(name, METHODS[name], THREAT)
    share, select = list(method.selection.selects.items())[-1]
    spec = {**method.selection.spec, "keep": share}
    needed = in_batch.passes(spec, method.attack_steps, method.update_passes)
    assert step_passes(method, select) == within(needed)


def test_slices_of_a_batch_take_no_more_than_the_whole():
    method = build_method("pgd_at", PGD, THREAT)
    (select,) = method.selection.selects.values()
    assert step_passes(method, select, slices=2) == within(method.gradients)


def test_a_perceptual_step_does_no_arithmetic_in_vain():
    """The image and the network's own answer once; a step goes forward and back through
    the network and the features, and through these once more to find its length."""
    steps, weights = 2, init_variables(NET, SHAPE, jax.random.key(1))
    sight = bind(NET, weights, "running")
    attack = fast_lagrangian(THREAT, losses.margin, 0.5, steps, False, sight)
    method = replace(build_method("pgd_at", PGD, THREAT), attack=attack)
    (select,) = method.selection.selects.values()
    needed = 2 + steps * (2 + 2 + 1) + method.update_passes
    assert step_passes(method, select) == within(needed)


def pass_flops(program):
    """Of a compiled pass over `ROWS` images with frozen weights, in forward passes."""

    def run(variables, image):
        frozen = Frozen(bind(NET, variables, "running"), bind_features(NET, variables))
        rows = jnp.arange(ROWS, dtype=jnp.int32)
        pixels = jnp.round(image * 255).astype(jnp.uint8)
        return program(frozen, pixels, rows % CLASSES, rows, rows, jax.random.key(0))

    return flops(run, VARIABLES, IMAGE) / forward_flops()


@pytest.mark.parametrize("name", SCORES)
def test_a_scoring_pass_does_no_arithmetic_in_vain(name):
    spec = {"name": name, **SPECS.get(name, {})}
    attack = pgd(THREAT, losses.cross_entropy, 0.05, 2, "uniform", 1, False)
    score = registry.build("score", SCORES, spec)
    batches = ScoringPass(attack, {name: score}, ROWS, make_mesh(1))
    assert pass_flops(batches._batch) == within(score_passes(spec, 2.0))


@pytest.mark.parametrize("name", ["pgd_at", "trades"])
def test_the_gradients_of_a_coreset_take_no_arithmetic_in_vain(name):
    c = coreset.get_config("smoke")
    c.methods = {name: METHODS[name]}
    gradients = GradientPass(build_setup(plain(c)), name)
    program = partial(gradients._program, original=ROWS)
    assert pass_flops(program) == within(gradients.passes)
