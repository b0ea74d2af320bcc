"""Every sampler, against Gaussian data whose flow is known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.generative.diffusion import normal_rows, rows
from jaxrobust.generative.samplers import EVALUATIONS, SAMPLERS
from jaxrobust.generative.schedule import cosine, edm, linear
from jaxrobust.generative.times import edm as edm_times
from jaxrobust.generative.times import uniform
from jaxrobust.rng import per_example

EVERY = pytest.mark.parametrize("name", sorted(SAMPLERS))
SHAPE = (3, 3, 1)
MEANS = jnp.array([-0.3, 0.2])
SPREAD = 0.15
KEY = jax.random.key(3)
SCHEDULES = {"cosine": cosine, "linear": linear, "edm": lambda: edm(-1.2, 1.2)}
GRIDS = {
    "uniform": uniform,
    "edm": lambda schedule, num_steps: edm_times(schedule, num_steps, 0.01, 80.0, 7.0),
}


def gaussian(schedule):
    """E[x_0 | x_t] where the pixels of class k are N(MEANS[k], SPREAD^2)."""

    def denoise(x_t, t, label):
        alpha, sigma = rows(schedule, t)
        mean = MEANS[label][:, None, None, None]
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        return mean + gain * (x_t - alpha * mean)

    return denoise


def sample(name, index, label, num_steps, schedule_name="cosine", grid="uniform"):
    times = GRIDS[grid](SCHEDULES[schedule_name](), num_steps)
    return draw(name, index, label, times, schedule_name)


@EVERY
def test_the_network_is_asked_as_often_as_said(name):
    asked, schedule = [], cosine()
    denoise = lambda x_t, t, label: (
        asked.append(1),
        gaussian(schedule)(x_t, t, label),
    )[1]
    keys, label = per_example(KEY, jnp.arange(2)), jnp.zeros(2, jnp.int32)
    with jax.disable_jit():
        SAMPLERS[name](keys, denoise, schedule, label, SHAPE, uniform(schedule, 4))
    assert len(asked) == EVALUATIONS[name](4)


@partial(jax.jit, static_argnames=("name", "schedule_name"))
def draw(name, index, label, times, schedule_name):
    schedule = SCHEDULES[schedule_name]()
    keys = per_example(KEY, index)
    return SAMPLERS[name](keys, gaussian(schedule), schedule, label, SHAPE, times)


def exact(index, label, num_steps, schedule_name="cosine", grid="uniform"):
    """Where the flow takes the same noise: `z - m` scales as `sqrt(SPREAD^2 + r^2)`."""
    schedule = SCHEDULES[schedule_name]()
    ends = GRIDS[grid](schedule, num_steps)[[0, -1]]
    alpha, sigma = schedule.alpha_sigma(jnp.asarray(ends))
    start, stop = sigma / alpha
    mean = MEANS[label][:, None, None, None]
    z = normal_rows(per_example(KEY, index), SHAPE) / alpha[0]
    shrink = jnp.sqrt((SPREAD**2 + stop**2) / (SPREAD**2 + start**2))
    last_step = SPREAD**2 / (SPREAD**2 + stop**2)
    return 0.5 * (mean + last_step * shrink * (z - mean) + 1.0)


@EVERY
@pytest.mark.parametrize(
    ("schedule_name", "grid"),
    [("cosine", "uniform"), ("linear", "uniform"), ("edm", "edm"), ("linear", "edm")],
)
def test_recovers_mean_and_spread(name, schedule_name, grid):
    index = jnp.arange(2000)
    label = index % 2
    image = sample(name, index, label, 250, schedule_name, grid)
    for k in range(2):
        pixels = 2 * np.asarray(image)[label == k] - 1
        assert abs(pixels.mean() - MEANS[k]) < 0.01
        assert abs(pixels.std() / SPREAD - 1) < 0.05


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2)])
def test_converges_at_its_order(name, order):
    index = jnp.arange(64)
    label = index % 2
    error = [gap(name, index, label, n) for n in (128, 256)]
    assert abs(np.log2(error[0] / error[1]) - order) < 0.15


def gap(*arguments):
    """Mean distance of a sample from where the flow takes its noise."""
    name, *rest = arguments
    return float(jnp.abs(sample(name, *rest) - exact(*rest)).mean())


def test_edm_in_twenty_steps_is_the_flow_to_a_grey_level():
    index = jnp.arange(64)
    assert gap("heun", index, index % 2, 20, "edm", "edm") < 1 / 255


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2)])
def test_converges_at_its_order_over_edm_times(name, order):
    index = jnp.arange(64)
    error = [gap(name, index, index % 2, n, "edm", "edm") for n in (40, 80)]
    assert abs(np.log2(error[0] / error[1]) - order) < 0.3


def test_one_image_is_reached_from_any_noise():
    point = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, SHAPE), jnp.float32)
    knows = lambda x_t, t, label: jnp.broadcast_to(point, x_t.shape)
    keys = per_example(KEY, jnp.arange(3))
    schedule = SCHEDULES["edm"]()
    times = GRIDS["edm"](schedule, 4)
    for sampler in SAMPLERS.values():
        image = sampler(keys, knows, schedule, jnp.zeros(3, jnp.int32), SHAPE, times)
        ideal = jnp.broadcast_to(0.5 * (point + 1), image.shape)
        np.testing.assert_allclose(image, ideal, atol=1e-6)


@EVERY
def test_a_sample_depends_on_its_own_key_and_label_alone(name):
    index, label = jnp.arange(6), jnp.array([0, 1, 1, 0, 1, 0])
    whole = sample(name, index, label, 5)
    order = np.array([4, 0, 3])
    part = sample(name, index[order], label[order], 5)
    np.testing.assert_allclose(part, whole[order], rtol=0, atol=1e-6)
    assert np.abs(whole[0] - whole[3]).max() > 0.01


@EVERY
def test_one_step_is_the_posterior_mean_of_noise(name):
    index, label = jnp.arange(2), jnp.array([0, 1])
    noise = normal_rows(per_example(KEY, index), SHAPE)
    mean = gaussian(cosine())(noise, jnp.ones(2), label)
    image = sample(name, index, label, 1)
    np.testing.assert_allclose(image, 0.5 * (mean + 1), rtol=1e-4)


@EVERY
def test_images_are_pixels(name):
    wild = lambda x_t, t, label: 3.0 * jnp.sign(x_t)
    keys, label = per_example(KEY, jnp.arange(4)), jnp.zeros(4, jnp.int32)
    image = SAMPLERS[name](keys, wild, cosine(), label, SHAPE, uniform(cosine(), 3))
    assert image.shape == (4, *SHAPE) and image.dtype == jnp.float32
    assert image.min() >= 0 and image.max() <= 1
