"""Times fall, are EDM's where they should be, and stay within the schedule."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.generative import schedule as schedules
from jaxrobust.generative.times import TIMES, edm, uniform

SCHEDULE = schedules.edm(-1.2, 1.2)


def levels(times, schedule=SCHEDULE):
    alpha, sigma = schedule.alpha_sigma(jnp.asarray(times))
    return np.asarray(sigma / alpha)


@pytest.mark.parametrize("num_steps", [1, 2, 18])
def test_uniform_times(num_steps):
    times = uniform(SCHEDULE, num_steps)
    np.testing.assert_allclose(times, 1 - np.arange(num_steps) / num_steps, rtol=1e-6)


@pytest.mark.parametrize("schedule", [SCHEDULE, schedules.linear()], ids=["edm", "vp"])
def test_edm_noise_levels_are_those_of_the_paper(schedule):
    i = np.arange(18)
    root = 80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    times = edm(schedule, 18, 0.002, 80.0, 7.0)
    assert np.all(np.diff(times) < 0) and times.dtype == np.float32
    np.testing.assert_allclose(levels(times, schedule), root**7, rtol=2e-4)


def test_one_edm_step_starts_from_noise():
    np.testing.assert_allclose(
        levels(edm(SCHEDULE, 1, 0.002, 80.0, 7.0)), 80, rtol=1e-4
    )


def test_rho_one_is_an_even_spacing():
    sigma = levels(edm(SCHEDULE, 5, 1.0, 5.0, 1.0))
    np.testing.assert_allclose(sigma, [5, 4, 3, 2, 1], rtol=1e-4)


@pytest.mark.parametrize(
    "bad", [(1e-5, 80.0, 7.0), (0.002, 500.0, 7.0), (2.0, 1.0, 7.0)]
)
def test_levels_outside_the_schedule_are_refused(bad):
    with pytest.raises(UserError, match="within the schedule's 0.0015 to 148"):
        edm(SCHEDULE, 5, *bad)


@pytest.mark.parametrize("name", sorted(TIMES))
def test_no_steps_are_refused(name):
    levels = {} if name == "uniform" else {"sigma_min": 1, "sigma_max": 2, "rho": 7}
    with pytest.raises(UserError, match="at least one step"):
        TIMES[name](SCHEDULE, num_steps=0, **levels)
