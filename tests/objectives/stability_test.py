"""Training on noise: the equation of stability training, and the law of the noise."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax

from jaxrobust.attacks.noise import gaussian
from jaxrobust.objectives.stability import stability
from jaxrobust.threat import ThreatModel
from tests.helpers import (
    image_keys,
    linear_logits,
    make_batch,
    random_images,
    random_weight,
)

THREAT = ThreatModel(0.1, "l2")
SIGMA = 0.25
WEIGHT = random_weight()


def draw(count=400, sigma=SIGMA, clamp=False, low=0.0, high=1.0, seed=7):
    image = random_images(count, low=low, high=high)
    keys = image_keys(np.arange(count), seed)
    noisy = gaussian(THREAT, sigma, clamp)(keys, linear_logits(WEIGHT), image, None)
    return image, np.asarray(noisy)


def test_the_noise_is_normal_with_std_sigma():
    image, noisy = draw()
    noise = (noisy - image).ravel() / SIGMA
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    # Neither pixels nor images share noise.
    table = (noisy - image).reshape(400, -1)
    worst = np.abs(np.corrcoef(table.T) - np.eye(16)).max()
    assert worst < 5 / np.sqrt(400)


def test_noise_leaves_the_range_of_pixels_only_without_clamp():
    _, free = draw()
    _, clamped = draw(clamp=True)
    assert free.min() < 0 and free.max() > 1
    np.testing.assert_array_equal(clamped, np.clip(free, 0, 1))


def test_noise_scales_with_sigma_and_not_with_eps():
    image, once = draw(8, sigma=0.1)
    _, twice = draw(8, sigma=0.2)
    np.testing.assert_allclose(twice - image, 2 * (once - image), atol=1e-6)
    keys = image_keys(np.arange(8))
    wide = gaussian(ThreatModel(5.0, "linf"), 0.1, False)(keys, None, image, None)
    np.testing.assert_array_equal(wide, once)


@pytest.mark.parametrize("beta", (0.0, 1.0, 6.0))
def test_the_loss_is_its_equation(beta):
    batch = make_batch(8)
    noisy = batch.image + jnp.asarray(
        np.random.default_rng(0).normal(0, SIGMA, batch.image.shape).astype(np.float32)
    )

    def forward(image, stats):
        return linear_logits(WEIGHT)(image), stats

    found = stability(beta, "both").outer(forward, batch, noisy)
    logits = lambda x: np.asarray(x, np.float64).reshape(8, -1) @ WEIGHT
    clean, other = (log_softmax(logits(x), 1) for x in (batch.image, noisy))
    divergence = (np.exp(clean) * (clean - other)).sum(1)
    expected = -clean[np.arange(8), np.asarray(batch.label)] + beta * divergence
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.logits, linear_logits(WEIGHT)(noisy))
