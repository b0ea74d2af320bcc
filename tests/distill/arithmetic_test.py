"""What matching computes is what its methods say that it needs, within 5%.

Counted by hand in forward passes F of an image. A gradient by weights takes 3 F. The
way back through one to the images alone takes 4: a convolution and its gradient by the
image are traversed once, each with the other operand fixed, and the gradient by the
weights to both of its operands.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxrobust import losses
from jaxrobust.attacks.noise import no_attack
from jaxrobust.attacks.pgd import pgd
from jaxrobust.distill import mtt, tesla
from jaxrobust.distill.dc import gradient_match
from jaxrobust.distill.dm import feature_match
from jaxrobust.distill.dsa import unchanged
from jaxrobust.distill.matching import DISTANCES
from jaxrobust.distill.trajectory import Segment, flat_network
from jaxrobust.models.convnet import convnet
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.objectives.standard import standard
from jaxrobust.state import create_state, init_variables
from jaxrobust.threat import make_threat
from tests.tiny_step import CLASSES, OPTIONS, SHAPE, flops

NET = convnet(CLASSES, **OPTIONS, norm="instance")
VARIABLES = jax.eval_shape(lambda: init_variables(NET, SHAPE, jax.random.key(0)))
IPC, REAL, STEPS = 4, 10, 2
SLOPE, BACK = 3, 4
BY_IMAGE = 2
within = partial(pytest.approx, rel=0.05)


def spec(*shape):
    return jax.ShapeDtypeStruct((*shape, *SHAPE), jnp.float32)


def forward_flops():
    """Of one image."""
    run = lambda v, x: NET.apply(v, x, train=False)
    return flops(run, VARIABLES, spec(CLASSES)) / CLASSES


def match_passes(match):
    """Of a match of `IPC` images of each class with `REAL`, in F."""

    def run(variables, image, real):
        network = create_state(variables, optax.sgd(0.1), with_ema=False)
        return match(network, image, real, jax.random.key(0))

    shapes = VARIABLES, spec(CLASSES, IPC), spec(CLASSES, REAL)
    return flops(run, *shapes) / forward_flops()


def attacked():
    attack = pgd(
        make_threat("linf", 0.1), losses.cross_entropy, 0.05, 2, "uniform", 1, False
    )
    return pgd_at("adv"), attack, 2 * BY_IMAGE + SLOPE


@pytest.mark.parametrize("given", [(standard(), no_attack(), SLOPE), attacked()])
def test_matching_gradients_does_no_arithmetic_in_vain(given):
    objective, attack, passes = given
    distance = DISTANCES["layerwise"]
    match = gradient_match(NET, objective, attack, distance, unchanged)
    needed = CLASSES * (passes * REAL + (SLOPE + BACK) * IPC)
    assert match_passes(match) == within(needed)


def test_matching_embeddings_does_no_arithmetic_in_vain():
    needed = CLASSES * (REAL + BY_IMAGE * IPC)
    assert match_passes(feature_match(NET, unchanged)) == within(needed)


@pytest.mark.parametrize("way", [mtt, tesla])
def test_matching_trajectories_does_no_arithmetic_in_vain(way):
    make = {mtt: mtt.trajectory_match, tesla: tesla.constant_memory_match}
    size = CLASSES * IPC
    match = make[way](flat_network(NET, SHAPE), unchanged, STEPS, size)
    count = sum(leaf.size for leaf in jax.tree.leaves(VARIABLES["params"]))
    params = jax.ShapeDtypeStruct((count,), jnp.float32)

    def run(start, goal, image):
        target, rate = jnp.arange(size) % CLASSES, jnp.asarray(0.1)
        return match(Segment(start, goal), image, target, rate, jax.random.key(0))

    needed = way.PASSES * STEPS * size
    assert flops(run, params, params, spec(size)) / forward_flops() == within(needed)
