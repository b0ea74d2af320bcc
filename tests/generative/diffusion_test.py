"""The forward process has the stated law, and the loss is zero where it must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.generative.diffusion import (
    PREDICTIONS,
    denoiser,
    denoising_loss,
    diffuse,
    normal_rows,
    rows,
)
from jaxrobust.generative.schedule import cosine
from tests import helpers

SCHEDULE = cosine()
EVERY = pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
X_0 = jnp.asarray(helpers.random_images(1, shape=(3, 3, 2)) * 2 - 1)


def knows(x_0, prediction):
    """The perfect network for a data set of the one image x_0 f32[1,H,W,C]."""

    def predict(x_t, t, label):
        alpha, sigma = rows(SCHEDULE, t)
        clean = jnp.broadcast_to(x_0, x_t.shape)
        noise = (x_t - alpha * clean) / sigma
        return PREDICTIONS[prediction].target(alpha, sigma, clean, noise)

    return predict


def loss_of(predict, count, prediction="epsilon", seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    image = jnp.repeat((X_0 + 1) / 2, count, axis=0)
    label = jnp.zeros(count, jnp.int32)
    return denoising_loss(predict, SCHEDULE, keys, image, label, prediction=prediction)


@pytest.mark.parametrize("time", [0.0, 0.3, 0.7, 1.0])
def test_forward_process_has_the_stated_mean_and_variance(time):
    count = 20_000
    noise = normal_rows(jax.random.split(jax.random.key(0), count), X_0.shape[1:])
    t = jnp.full(count, time)
    x_t = diffuse(SCHEDULE, t, jnp.repeat(X_0, count, axis=0), noise)
    alpha, sigma = SCHEDULE.alpha_sigma(jnp.asarray(time))
    error = 5 * float(sigma) / np.sqrt(count)
    np.testing.assert_allclose(x_t.mean(0), alpha * X_0[0], atol=error + 1e-6)
    np.testing.assert_allclose(x_t.std(0), jnp.full(X_0.shape[1:], sigma), rtol=0.04)


@EVERY
def test_loss_of_the_perfect_network_is_zero(prediction):
    loss = loss_of(knows(X_0, prediction), 64, prediction)
    assert loss.shape == (64,)
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_loss_of_silence_is_the_power_of_noise():
    loss = loss_of(lambda x_t, t, label: jnp.zeros_like(x_t), 4000)
    pixels = X_0.size
    np.testing.assert_allclose(loss.mean(), 1.0, atol=0.03)
    np.testing.assert_allclose(loss.var(), 2 / pixels, rtol=0.15)


def test_loss_of_a_row_depends_on_its_key_alone():
    keys = jax.random.split(jax.random.key(1), 6)
    image, label = helpers.random_images(6), jnp.arange(6)
    network = lambda x_t, t, y: x_t * (t + y)[:, None, None, None]
    loss = lambda at: denoising_loss(
        network, SCHEDULE, keys[at], image[at], label[at], prediction="v"
    )
    order = np.array([4, 1, 3])
    np.testing.assert_array_equal(loss(order), loss(np.arange(6))[order])


@EVERY
def test_denoiser_undoes_the_parametrisation(prediction):
    t = jnp.linspace(0.0, 1.0, 9)
    noise = jax.random.normal(jax.random.key(0), (9, *X_0.shape[1:]))
    x_t = diffuse(SCHEDULE, t, jnp.repeat(X_0, 9, axis=0), noise)
    denoise = denoiser(knows(X_0, prediction), SCHEDULE, prediction=prediction)
    x_0 = denoise(x_t, t, jnp.zeros(9, jnp.int32))
    np.testing.assert_allclose(x_0, jnp.broadcast_to(X_0, x_0.shape), atol=1e-4)


def test_denoiser_stays_among_pixels():
    wild = denoiser(lambda x_t, t, y: 9 * x_t, SCHEDULE, prediction="epsilon")
    assert jnp.abs(wild(4 * X_0, jnp.ones(1), jnp.zeros(1, jnp.int32))).max() <= 1


def test_unknown_prediction_is_named():
    with pytest.raises(UserError, match="did you mean epsilon"):
        loss_of(knows(X_0, "v"), 2, "epsilom")
