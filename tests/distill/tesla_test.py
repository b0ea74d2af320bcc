"""The constant-memory gradient: where it is exact, what it is otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxrobust.distill import mtt, tesla
from jaxrobust.distill.dsa import unchanged
from jaxrobust.distill.mtt import trajectory_match
from jaxrobust.distill.tesla import constant_memory_match
from jaxrobust.distill.trajectory import Segment, draw_batches, flat_network
from jaxrobust.models.convnet import convnet
from jaxrobust.state import init_variables
from tests.bench import hlo_flops
from tests.distill.mtt_test import PARAMS, match_bytes, wide
from tests.distill.trajectory import (
    SIZE,
    brighten,
    network,
    problem,
    relative,
    slope_of,
)


def both(steps, given):
    """(exact, constant-memory) results."""
    exact = trajectory_match(network(), brighten, steps, 3)
    ours = constant_memory_match(network(), brighten, steps, 3)
    return jax.jit(exact)(*given), jax.jit(ours)(*given)


@pytest.mark.parametrize("soft", (False, True))
def test_with_one_step_it_is_the_exact_gradient(soft):
    with jax.enable_x64(True):
        (value, exact), (found, ours) = both(1, problem(soft=soft))
        np.testing.assert_allclose(found, value, rtol=1e-12)
        np.testing.assert_allclose(ours.image, exact.image, rtol=1e-8, atol=1e-15)
        np.testing.assert_allclose(ours.rate, exact.rate, rtol=1e-10)
        assert np.abs(exact.image).max() > 1e-4


def test_with_more_steps_it_is_the_gradient_of_the_surrogate():
    steps = 5
    with jax.enable_x64(True):
        given = problem()
        batches = draw_batches(given.key, SIZE, 3, steps)

        def surrogate(image, rate):
            params, total = given.segment.start, 0.0
            for i in range(steps):
                here = jax.lax.stop_gradient(params)
                slope = slope_of(batches, i, here, image, given.target)
                total += slope
                params -= given.rate * slope
            return relative(given.segment.start - rate * total, given.segment)

        both_slopes = jax.jit(jax.value_and_grad(surrogate, (0, 1)))
        value, (by_image, by_rate) = both_slopes(given.image, given.rate)
        found, ours = both(steps, given)[1]
        np.testing.assert_allclose(found, value, rtol=1e-10)
        np.testing.assert_allclose(ours.image, by_image, rtol=1e-8, atol=1e-14)
        np.testing.assert_allclose(ours.rate, by_rate, rtol=1e-9)


def test_what_it_drops_is_of_first_order_in_the_step_size():
    def gap(rate):
        (value, exact), (found, ours) = both(6, problem(rate))
        np.testing.assert_allclose(found, value, rtol=1e-10)
        away = jnp.linalg.norm(ours.image - exact.image)
        return float(away / jnp.linalg.norm(exact.image))

    with jax.enable_x64(True):
        far, near = gap(1e-3), gap(1e-4)
    assert far > 1e-6
    np.testing.assert_allclose(far / near, 10, rtol=0.1)


@pytest.mark.parametrize("method", (trajectory_match, constant_memory_match))
def test_arithmetic_of_an_inner_step(method):
    model = convnet(
        3, (0.5,), (0.25,), widths=(8, 32, 32), pool="none", head="mean", conv="xla"
    )
    image = jax.ShapeDtypeStruct((4, 6, 6, 1), jnp.float32)
    init = lambda: init_variables(model, image.shape[1:], jax.random.key(0))
    params = jax.eval_shape(lambda: ravel_pytree(init()["params"])[0])
    net, steps = flat_network(model, image.shape[1:]), 9
    flops = lambda f, *shapes: hlo_flops.parse(
        jax.jit(f).lower(*shapes).compile().as_text()
    ).flops()
    label = jax.ShapeDtypeStruct((4,), jnp.int32)
    rate, key = jax.eval_shape(lambda: (jnp.zeros(()), jax.random.key(0)))
    match = method(net, unchanged, steps, 4)
    done = flops(match, Segment(params, params), image, label, rate, key)
    expected = {trajectory_match: mtt.PASSES}.get(method, tesla.PASSES)
    assert done / flops(net, params, image) / steps == pytest.approx(expected, rel=0.05)


def test_memory_does_not_grow_with_the_number_of_steps():
    ours = lambda steps: constant_memory_match(wide, brighten, steps, 1)
    few, many = (match_bytes(ours, steps) for steps in (16, 256))
    assert many - few < 4 * PARAMS
