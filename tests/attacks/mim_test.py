"""MIM is the loop of its docstring, and its momentum survives zero gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.mim import mim
from jaxrobust.threat import make_threat
from tests.helpers import count_dots, image_keys, linear_logits, random_images
from tests.helpers import random_weight as weight_of

COUNT = 8
KEYS = image_keys(np.arange(COUNT))
IMAGE = random_images(COUNT, low=0.3, high=0.7)
LABEL = np.arange(COUNT) % 3
EPS = {"linf": 0.15, "l2": 0.4}


def bumpy(x):
    flat = jnp.reshape(x, (len(x), -1))
    return jnp.sin(9 * flat @ weight_of(3)) @ weight_of(4, 3, (3,))


def attack(norm, logits=bumpy, **options):
    plain = {"step_size": 0.06, "num_steps": 4, "decay": 0.8, "keep_best": False}
    threat = make_threat(norm, EPS[norm])
    built = mim(threat, losses.cross_entropy, **plain | options)
    run = jax.jit(lambda keys, image: built(keys, logits, image, LABEL))
    return np.asarray(run(KEYS, IMAGE))


def by_hand(norm, steps, decay, step_size=0.06):
    """All iterates, image by image in float64 but for the gradient."""
    slope = jax.jit(jax.grad(lambda x: losses.cross_entropy(bumpy(x), LABEL).sum()))
    x, m, iterates, eps = IMAGE, np.zeros_like(IMAGE), [IMAGE], EPS[norm]
    for _ in range(steps):
        g = np.asarray(slope(x))
        m = np.stack([decay * m[i] + g[i] / abs(g[i]).sum() for i in range(COUNT)])
        if norm == "linf":
            x = np.clip(x + step_size * np.sign(m), IMAGE - eps, IMAGE + eps)
        else:
            sizes = np.sqrt((m**2).sum((1, 2, 3), keepdims=True))
            delta = x + step_size * m / sizes - IMAGE
            reach = np.sqrt((delta**2).sum((1, 2, 3), keepdims=True))
            x = IMAGE + delta * np.minimum(1, eps / reach)
        x = np.clip(x, 0, 1).astype(np.float32)
        iterates.append(x)
    return iterates


def margin(x):
    return np.asarray(losses.margin(bumpy(x), LABEL))


@pytest.mark.parametrize("norm", ("linf", "l2"))
def test_mim_is_the_loop_of_its_docstring(norm):
    x = attack(norm)
    np.testing.assert_allclose(x, by_hand(norm, 4, 0.8)[-1], atol=3e-5)
    # Momentum is more than PGD with another name.
    assert abs(x - by_hand(norm, 4, 0.0)[-1]).max() > 0.01


def test_keep_best_returns_the_iterate_of_largest_margin():
    x = attack("linf", keep_best=True)
    margins = np.stack([margin(step) for step in by_hand("linf", 4, 0.8)])
    np.testing.assert_allclose(margin(x), margins.max(0), atol=1e-3)
    assert (margins.max(0) > margins[-1] + 0.01).any()


@pytest.mark.parametrize("keep_best", (True, False))
@pytest.mark.parametrize("norm", ("linf", "l2"))
def test_a_zero_gradient_is_no_nan(norm, keep_best):
    flat = lambda x: jnp.zeros((len(x), 3)) + 0 * jnp.reshape(x, (len(x), -1))[:, :3]
    np.testing.assert_array_equal(attack(norm, flat, keep_best=keep_best), IMAGE)


def test_momentum_goes_on_where_the_gradient_ends():
    # Beyond 0.1 from the image this network is constant.
    row = jnp.reshape(jnp.asarray(IMAGE), (COUNT, -1))

    def ledge(x):
        rise = jnp.minimum(jnp.reshape(x, (COUNT, -1)) - row, 0.1)
        return -jax.nn.one_hot(LABEL, 3) * jnp.sum(rise, axis=1, keepdims=True)

    x = attack("linf", ledge)
    np.testing.assert_allclose(x, IMAGE + np.float32(0.15), atol=1e-6)


@pytest.mark.parametrize("keep_best,passes", ((False, 6), (True, 7)))
def test_what_mim_costs(keep_best, passes):
    threat = make_threat("linf", 0.1)
    built = mim(threat, losses.cross_entropy, 0.03, 3, 1.0, keep_best)
    logits_fn = linear_logits(weight_of())
    run = lambda keys, image: built(keys, logits_fn, image, LABEL)
    assert count_dots(run, KEYS, IMAGE) == passes
