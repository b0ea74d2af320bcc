"""A schedule goes from nearly all signal to nearly all noise, without a step back."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.generative.schedule import LOG_SNR_MAX, LOG_SNR_MIN, SCHEDULES

EVERY = pytest.mark.parametrize("name", sorted(SCHEDULES))
TIMES = np.linspace(0.0, 1.0, 201, dtype=np.float32)


@EVERY
def test_begins_with_the_image_and_ends_with_noise(name):
    first, last = SCHEDULES[name]().alpha_bar(jnp.array([0.0, 1.0]))
    assert first > 0.9999
    assert last < 1e-4


@EVERY
def test_signal_to_noise_falls_strictly(name):
    schedule = SCHEDULES[name]()
    assert np.all(np.diff(schedule.log_snr(TIMES)) < 0)
    assert np.all(np.isfinite(schedule.log_snr(TIMES)))


@EVERY
def test_preserves_variance(name):
    schedule = SCHEDULES[name]()
    alpha, sigma = schedule.alpha_sigma(TIMES)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(alpha**2, schedule.alpha_bar(TIMES), rtol=1e-5)
    np.testing.assert_allclose(
        2 * np.log(alpha / sigma), schedule.log_snr(TIMES), rtol=1e-4, atol=1e-4
    )


def test_cosine_reaches_its_limits_and_is_a_cosine():
    schedule = SCHEDULES["cosine"]()
    ends = schedule.log_snr(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(ends, [LOG_SNR_MAX, LOG_SNR_MIN], rtol=1e-3)
    ideal = np.cos(0.5 * np.pi * TIMES) ** 2
    np.testing.assert_allclose(schedule.alpha_bar(TIMES), ideal, atol=0.01)


def test_linear_is_the_limit_of_ddpm():
    beta = np.linspace(1e-4, 0.02, 1000)
    steps = np.array([1, 10, 100, 500, 999])
    discrete = np.cumprod(1 - beta)[steps - 1]
    ours = SCHEDULES["linear"]().alpha_bar(jnp.asarray(steps / 1000, jnp.float32))
    np.testing.assert_allclose(ours, discrete, rtol=0.08)
