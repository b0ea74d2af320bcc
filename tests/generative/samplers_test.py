"""Every sampler, against Gaussian data whose flow is known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.generative.diffusion import normal_rows, rows
from jaxrobust.generative.samplers import SAMPLERS
from jaxrobust.generative.schedule import SCHEDULES, cosine
from jaxrobust.rng import per_example

EVERY = pytest.mark.parametrize("name", sorted(SAMPLERS))
SHAPE = (3, 3, 1)
MEANS = jnp.array([-0.3, 0.2])
SPREAD = 0.15
KEY = jax.random.key(3)


def gaussian(schedule):
    """E[x_0 | x_t] where the pixels of class k are N(MEANS[k], SPREAD^2)."""

    def denoise(x_t, t, label):
        alpha, sigma = rows(schedule, t)
        mean = MEANS[label][:, None, None, None]
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        return mean + gain * (x_t - alpha * mean)

    return denoise


@partial(jax.jit, static_argnames=("name", "num_steps", "schedule_name"))
def sample(name, index, label, num_steps, schedule_name="cosine"):
    schedule = SCHEDULES[schedule_name]()
    keys = per_example(KEY, index)
    return SAMPLERS[name](keys, gaussian(schedule), schedule, label, SHAPE, num_steps)


def exact(index, label, num_steps):
    """Where the flow takes the same noise: `z - m` scales as `sqrt(SPREAD^2 + r^2)`."""
    alpha, sigma = cosine().alpha_sigma(jnp.array([1.0, 1.0 / num_steps]))
    start, stop = sigma / alpha
    mean = MEANS[label][:, None, None, None]
    z = normal_rows(per_example(KEY, index), SHAPE) / alpha[0]
    shrink = jnp.sqrt((SPREAD**2 + stop**2) / (SPREAD**2 + start**2))
    last_step = SPREAD**2 / (SPREAD**2 + stop**2)
    return 0.5 * (mean + last_step * shrink * (z - mean) + 1.0)


@EVERY
@pytest.mark.parametrize("schedule_name", sorted(SCHEDULES))
def test_recovers_mean_and_spread(name, schedule_name):
    index = jnp.arange(2000)
    label = index % 2
    image = sample(name, index, label, 250, schedule_name)
    for k in range(2):
        pixels = 2 * np.asarray(image)[label == k] - 1
        assert abs(pixels.mean() - MEANS[k]) < 0.01
        assert abs(pixels.std() / SPREAD - 1) < 0.05


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2)])
def test_converges_at_its_order(name, order):
    index = jnp.arange(64)
    label = index % 2
    error = [
        float(jnp.abs(sample(name, index, label, n) - exact(index, label, n)).mean())
        for n in (128, 256)
    ]
    assert abs(np.log2(error[0] / error[1]) - order) < 0.15


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
    image = SAMPLERS[name](keys, wild, cosine(), label, SHAPE, 3)
    assert image.shape == (4, *SHAPE) and image.dtype == jnp.float32
    assert image.min() >= 0 and image.max() <= 1


@EVERY
def test_no_steps_are_refused(name):
    with pytest.raises(UserError, match="at least one step"):
        sample(name, jnp.arange(2), jnp.zeros(2, jnp.int32), 0)
