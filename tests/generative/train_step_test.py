"""The step learns, averages by the formula, and is a pure function of its arguments."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxrobust import tree
from jaxrobust.generative.denoisers import DENOISERS
from jaxrobust.generative.diffusion import denoising_loss, edm, epsilon, v
from jaxrobust.generative.schedule import cosine, linear
from jaxrobust.generative.schedule import edm as edm_schedule
from jaxrobust.generative.train import init_state, make_denoise_step
from jaxrobust.rng import per_example, step_keys
from tests import helpers

KEY = jax.random.key(5)
MODEL = DENOISERS["mlp"](helpers.CLASSES, width=16, num_blocks=1)
TX = optax.adam(3e-3)
UNKNOWN = helpers.CLASSES
STEP = jax.jit(
    make_denoise_step(
        MODEL, TX, cosine(), v(), ema_decay=0.9, unknown=UNKNOWN, label_drop_percent=0.0
    )
)


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
        rows = denoising_loss(predict, cosine(), v(), keys, batch.image, batch.label)
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


def loss_where_labels_are(batch, percent):
    step = make_denoise_step(
        MODEL,
        TX,
        cosine(),
        v(),
        ema_decay=0.9,
        unknown=UNKNOWN,
        label_drop_percent=percent,
    )
    # Trained a little first: a fresh network says nothing, whatever the label.
    state = after(start(), helpers.make_batch(), 3)[-1]
    return float(jax.jit(step)(state, batch, KEY)[1]["loss"])


def test_hidden_labels_are_the_unknown_class():
    batch = helpers.make_batch(32)
    unknown = batch._replace(label=jnp.full(32, UNKNOWN))
    known, hidden = (loss_where_labels_are(b, 0.0) for b in (batch, unknown))
    assert loss_where_labels_are(batch, 100.0) == hidden != known
    assert loss_where_labels_are(batch, 50.0) not in (hidden, known)


def recipes():
    ddpm = (linear(), epsilon())
    return {"ddpm": ddpm, "edm": (edm_schedule(-1.2, 1.2), edm(0.5))}


@pytest.mark.parametrize("name", ["ddpm", "edm"])
def test_ddpm_and_edm_learn_a_toy_without_classes(name):
    model = DENOISERS["mlp"](0, width=16, num_blocks=1)
    step = make_denoise_step(
        model, TX, *recipes()[name], ema_decay=0.9, unknown=0, label_drop_percent=100.0
    )
    batch = helpers.make_batch(64)
    body = lambda state, _: step(state, batch, KEY)
    state = init_state(model, TX, jax.random.key(1), helpers.SHAPE)
    _, metrics = jax.jit(lambda s: lax.scan(body, s, None, length=300))(state)
    assert metrics["loss"][-20:].mean() < 0.7 * metrics["loss"][:20].mean()


def test_dropout_draws_anew_in_every_step_and_the_same_again():
    model = DENOISERS["unet"](2, (8,), 1, dropout=0.5)
    make = lambda: jax.jit(
        make_denoise_step(
            model,
            optax.sgd(0.0),
            cosine(),
            v(),
            ema_decay=0.9,
            unknown=2,
            label_drop_percent=0.0,
        )
    )
    state = init_state(model, optax.sgd(0.0), jax.random.key(1), (4, 4, 1))
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda p: draw(size=p.shape, scale=0.3), state.params)
    state = dataclasses.replace(state, params=jax.tree.map(jnp.float32, params))
    images = jnp.asarray(helpers.random_images(4, shape=(4, 4, 1)))
    batch = helpers.make_batch(4)._replace(image=images, label=jnp.zeros(4, jnp.int32))
    loss = lambda key: float(make()(state, batch, key)[1]["loss"])
    assert loss(KEY) == loss(KEY) != loss(jax.random.key(6))
