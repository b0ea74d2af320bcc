"""The step learns, averages by the formula, and is a pure function of its arguments."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxrobust import tree
from jaxrobust.generative.denoisers import DENOISERS
from jaxrobust.generative.diffusion import denoising_loss
from jaxrobust.generative.schedule import cosine
from jaxrobust.generative.train import init_state, make_denoise_step
from jaxrobust.rng import per_example, step_keys
from tests import helpers

KEY = jax.random.key(5)
MODEL = DENOISERS["mlp"](helpers.CLASSES, width=16, num_blocks=1)
TX = optax.adam(3e-3)
STEP = jax.jit(make_denoise_step(MODEL, TX, cosine(), prediction="v", ema_decay=0.9))


@cache
def start():
    return init_state(MODEL, TX, jax.random.key(1), helpers.SHAPE)


def after(state, batch, count):
    states = [state]
    for _ in range(count):
        states.append(STEP(states[-1], batch, KEY)[0])
    return states


def test_learns_a_toy():
    batch = helpers.make_batch(64)
    body = lambda state, _: STEP(state, batch, KEY)
    state, metrics = jax.jit(lambda s: lax.scan(body, s, None, length=300))(start())
    first, last = metrics["loss"][:20].mean(), metrics["loss"][-20:].mean()
    assert last < 0.5 * first
    assert state.step == 300 and tree.all_finite(state.params)


def test_metrics_are_the_weighted_loss_and_the_length_of_its_gradient():
    batch = helpers.make_batch(6, weight=jnp.array([1.0, 0.0, 2.0, 0.5, 0.0, 1.0]))
    keys = per_example(step_keys(KEY, 0).model, jnp.arange(6))

    def mean_loss(params):
        predict = lambda x_t, t, y: MODEL.apply({"params": params}, x_t, t, y)
        rows = denoising_loss(
            predict, cosine(), keys, batch.image, batch.label, prediction="v"
        )
        return jnp.dot(rows, batch.weight) / 4.5

    loss, grads = jax.value_and_grad(mean_loss)(start().params)
    _, metrics = STEP(start(), batch, KEY)
    assert all(value.shape == () for value in metrics.values())
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
    length = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics["grad_norm"], length, rtol=1e-4)


def test_rows_of_weight_zero_do_not_matter():
    batch = helpers.make_batch(6, weight=jnp.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]))
    other = batch._replace(image=batch.image.at[2].set(0.5))
    a, b = STEP(start(), batch, KEY), STEP(start(), other, KEY)
    assert tree.digest(a) == tree.digest(b)


def test_average_follows_the_formula():
    states = after(start(), helpers.make_batch(), 3)
    average = jax.tree.leaves(states[0].params)
    for t, state in enumerate(states[1:]):
        d = min(0.9, (1 + t) / (10 + t))
        now = jax.tree.leaves(state.params)
        average = [d * a + (1 - d) * p for a, p in zip(average, now)]
    for ours, ideal in zip(jax.tree.leaves(states[-1].ema["params"]), average):
        np.testing.assert_allclose(ours, ideal, rtol=1e-5, atol=1e-7)
    assert states[-1].ema["batch_stats"] == {}


def test_a_resumed_run_is_the_same_run():
    batch = helpers.make_batch()
    whole = after(start(), batch, 4)
    resumed = after(jax.device_get(whole[2]), batch, 2)
    assert tree.digest(whole[-1]) == tree.digest(resumed[-1])
    assert tree.digest(whole[1].params) != tree.digest(whole[2].params)


def test_a_fresh_state_may_be_donated():
    state = init_state(MODEL, TX, jax.random.key(1), helpers.SHAPE)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)
