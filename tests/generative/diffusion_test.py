"""The forward process has the stated law, and the loss is zero where it must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.generative import diffusion
from jaxrobust.generative.diffusion import (
    denoiser,
    denoising_loss,
    diffuse,
    drop_labels,
    guided,
    normal_rows,
    rows,
)
from jaxrobust.generative.schedule import cosine
from tests import helpers

SCHEDULE = cosine()
PREDICTIONS = {
    "epsilon": diffusion.epsilon(),
    "v": diffusion.v(),
    "edm": diffusion.edm(0.5),
}
SPREADS = pytest.mark.parametrize("sigma_data", [0.3, 0.5, 1.0])
EVERY = pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
X_0 = jnp.asarray(helpers.random_images(1, shape=(3, 3, 2)) * 2 - 1)


def knows(x_0, prediction):
    """The perfect network for a data set of the one image x_0 f32[1,H,W,C]."""

    def predict(seen, t, label):
        alpha, sigma = rows(SCHEDULE, t)
        x_t = seen / PREDICTIONS[prediction].scale(alpha, sigma)
        clean = jnp.broadcast_to(x_0, x_t.shape)
        noise = (x_t - alpha * clean) / sigma
        return PREDICTIONS[prediction].target(alpha, sigma, clean, noise)

    return predict


def loss_of(predict, count, prediction="epsilon", seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    image = jnp.repeat((X_0 + 1) / 2, count, axis=0)
    label = jnp.zeros(count, jnp.int32)
    said = PREDICTIONS[prediction]
    return denoising_loss(predict, SCHEDULE, said, keys, image, label)


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
        network, SCHEDULE, diffusion.v(), keys[at], image[at], label[at]
    )
    order = np.array([4, 1, 3])
    np.testing.assert_array_equal(loss(order), loss(np.arange(6))[order])


@EVERY
def test_denoiser_undoes_the_parametrisation(prediction):
    t = jnp.linspace(0.0, 1.0, 9)
    noise = jax.random.normal(jax.random.key(0), (9, *X_0.shape[1:]))
    x_t = diffuse(SCHEDULE, t, jnp.repeat(X_0, 9, axis=0), noise)
    denoise = denoiser(knows(X_0, prediction), SCHEDULE, PREDICTIONS[prediction])
    x_0 = denoise(x_t, t, jnp.zeros(9, jnp.int32))
    np.testing.assert_allclose(x_0, jnp.broadcast_to(X_0, x_0.shape), atol=1e-4)


def test_denoiser_stays_among_pixels():
    wild = denoiser(lambda x_t, t, y: 9 * x_t, SCHEDULE, diffusion.epsilon())
    assert jnp.abs(wild(4 * X_0, jnp.ones(1), jnp.zeros(1, jnp.int32))).max() <= 1


def levels(count, seed=0):
    """alpha, sigma f32[5,1] over the schedule; x_0, noise ~ N(0, 1) f32[1,count]."""
    alpha, sigma = SCHEDULE.alpha_sigma(jnp.linspace(0.0, 1.0, 5))
    x_0, noise = jax.random.normal(jax.random.key(seed), (2, 1, count))
    return alpha[:, None], sigma[:, None], x_0, noise


@SPREADS
def test_edm_network_sees_and_says_unit_variance_at_every_level(sigma_data):
    alpha, sigma, x_0, noise = levels(40_000)
    x_0 = sigma_data * x_0
    kind = diffusion.edm(sigma_data)
    seen = kind.scale(alpha, sigma) * (alpha * x_0 + sigma * noise)
    np.testing.assert_allclose(seen.std(axis=1), 1.0, atol=0.02)
    target = kind.target(alpha, sigma, x_0, noise)
    np.testing.assert_allclose(target.std(axis=1), 1.0, atol=0.02)
    # The best silent network errs by the part of the target that x_t does not tell.
    assert np.abs(jnp.mean(seen * target, axis=1)).max() < 0.02


@SPREADS
def test_edm_coefficients_are_those_of_the_paper(sigma_data):
    """Table 1 in its own terms: y = x_0 + level noise, D = c_skip y + c_out F."""
    alpha, sigma, x_0, noise = levels(7)
    level, total = sigma / alpha, sigma_data**2 + (sigma / alpha) ** 2
    y = x_0 + level * noise
    c_skip = sigma_data**2 / total
    c_out = level * sigma_data / jnp.sqrt(total)
    kind = diffusion.edm(sigma_data)
    said = jax.random.normal(jax.random.key(1), (1, 7))
    ours = kind.clean(alpha, sigma, alpha * y, said)
    np.testing.assert_allclose(ours, c_skip * y + c_out * said, rtol=2e-5, atol=1e-5)
    seen = kind.scale(alpha, sigma) * alpha * y
    np.testing.assert_allclose(seen, y / jnp.sqrt(total), rtol=2e-5)
    # Squared error of F = the paper's weight times the squared error of D.
    weight = total / (level * sigma_data) ** 2
    error = jnp.square(said - kind.target(alpha, sigma, x_0, noise))
    ideal = weight * jnp.square(c_skip * y + c_out * said - x_0)
    np.testing.assert_allclose(error[1:], ideal[1:], rtol=1e-3, atol=1e-5)


def test_edm_for_unit_data_is_v_with_the_other_sign():
    alpha, sigma, x_0, noise = levels(7)
    ours, v = diffusion.edm(1.0), diffusion.v()
    target = v.target(alpha, sigma, x_0, noise)
    np.testing.assert_allclose(
        ours.target(alpha, sigma, x_0, noise), -target, atol=1e-5
    )
    x_t = alpha * x_0 + sigma * noise
    clean = v.clean(alpha, sigma, x_t, target)
    np.testing.assert_allclose(ours.clean(alpha, sigma, x_t, -target), clean, atol=1e-5)
    np.testing.assert_allclose(ours.scale(alpha, sigma), 1.0, rtol=1e-6)


def test_edm_needs_a_spread():
    with pytest.raises(UserError, match="sigma_data is 0"):
        diffusion.edm(0.0)


def by_label(x_t, t, label):
    return x_t * (1.0 + label)[:, None, None, None]


def test_guidance_weight_one_is_the_network_itself():
    assert guided(by_label, 3, 1.0) is by_label


def test_guidance_goes_past_the_class_away_from_the_unknown():
    label = jnp.array([0, 1])
    x_t, t = jnp.ones((2, 2, 2, 1)), jnp.zeros(2)
    said = guided(by_label, 3, 2.0)(x_t, t, label)
    np.testing.assert_allclose(said[:, 0, 0, 0], [4 + 2 * (1 - 4), 4 + 2 * (2 - 4)])
    same = guided(by_label, 3, 7.0)(x_t, t, jnp.array([3, 3]))
    np.testing.assert_allclose(same, 4.0)


@pytest.mark.parametrize("percent", [0.0, 20.0, 100.0])
def test_the_stated_share_of_labels_becomes_unknown(percent):
    keys = jax.random.split(jax.random.key(0), 5000)
    label = drop_labels(keys, jnp.arange(5000) % 3, 3, percent)
    share = 100 * np.mean(np.asarray(label) == 3)
    assert abs(share - percent) <= (3 if 0 < percent < 100 else 0)
    kept = np.asarray(label) != 3
    assert np.all(np.asarray(label)[kept] == (np.arange(5000) % 3)[kept])
