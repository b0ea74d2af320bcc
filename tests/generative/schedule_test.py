"""A schedule goes from nearly all signal to nearly all noise, without a step back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrobust.generative import schedule as schedules
from jaxrobust.generative.schedule import LOG_SNR_MAX, LOG_SNR_MIN

SCHEDULES = {**schedules.SCHEDULES, "edm": lambda: schedules.edm(-1.2, 1.2)}
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


@EVERY
def test_time_is_the_inverse(name):
    schedule = SCHEDULES[name]()
    back = schedule.time(schedule.log_snr(TIMES))
    np.testing.assert_allclose(back, TIMES, atol=2e-6)


@EVERY
def test_drawn_times_follow_their_law(name):
    schedule = SCHEDULES[name]()
    t = schedule.draw_times(jax.random.split(jax.random.key(0), 4000))
    drawn, law = t, stats.uniform()
    if name == "edm":
        drawn, law = -0.5 * schedule.log_snr(t), stats.norm(-1.2, 1.2)
    assert stats.kstest(np.asarray(drawn), law.cdf).pvalue > 0.01


def test_a_drawn_time_depends_on_its_key_alone():
    keys = jax.random.split(jax.random.key(0), 5)
    order = np.array([3, 1])
    for make in SCHEDULES.values():
        whole = make().draw_times(keys)
        np.testing.assert_array_equal(make().draw_times(keys[order]), whole[order])


def test_edm_reaches_its_published_noise_levels():
    low, high = schedules.noise_level_limits(SCHEDULES["edm"]())
    assert low < 0.002 and 80 < high < 150
    wide = schedules.edm(0.0, 100.0).draw_times(jax.random.split(jax.random.key(0), 50))
    assert wide.min() == 0 and wide.max() == 1
