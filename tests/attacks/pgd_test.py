"""PGD reaches the closed-form optimum of a linear model, and keeps its best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.pgd import pgd
from jaxrobust.errors import UserError
from jaxrobust.threat import NORMS, make_threat
from tests.helpers import (
    count_dots,
    image_keys,
    linear_logits,
    random_images,
    random_weight,
)

COUNT = 16
KEYS = image_keys(np.arange(COUNT))
IMAGE = random_images(COUNT, low=0.3, high=0.7)
PLAIN = {
    "step_size": 0.03,
    "num_steps": 8,
    "start": "none",
    "num_restarts": 1,
    "keep_best": False,
}
TWO = random_weight(classes=2)
LABEL2 = np.arange(COUNT) % 2
LABEL3 = np.arange(COUNT) % 3


def attack(norm, eps, loss=losses.cross_entropy, logits=None, label=LABEL2, **options):
    built = pgd(make_threat(norm, eps), loss, **PLAIN | options)
    logits = linear_logits(TWO) if logits is None else logits
    run = jax.jit(lambda keys, image: built(keys, logits, image, label))
    return np.asarray(run(KEYS, IMAGE))


def uphill():
    """w_other - w_y, the gradient of the margin of a two-class linear model."""
    gap = TWO[:, 1 - LABEL2] - TWO[:, LABEL2]
    return gap.T.reshape(IMAGE.shape)


@pytest.mark.parametrize("loss", (losses.cross_entropy, losses.margin))
@pytest.mark.parametrize("start", ("none", "uniform", "gaussian"))
def test_linear_linf_optimum_is_the_corner(start, loss):
    # 8 steps of 0.03 cross a ball of width 0.2.
    x = attack("linf", 0.1, loss, start=start)
    np.testing.assert_array_equal(x, IMAGE + np.float32(0.1) * np.sign(uphill()))


def test_linear_linf_optimum_in_the_box():
    x = attack("linf", 0.5, num_steps=20, step_size=0.1)
    expected = np.clip(IMAGE + np.float32(0.5) * np.sign(uphill()), 0, 1)
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("start,steps", (("none", 8), ("uniform", 60)))
def test_linear_l2_optimum_is_on_the_ray(start, steps):
    x = attack("l2", 0.2, start=start, step_size=0.05, num_steps=steps)
    rows = uphill()
    ray = rows / np.sqrt((rows**2).sum((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(x, IMAGE + 0.2 * ray, atol=1e-4)


def bumpy(x):
    """A network whose margin goes up and down along a line."""
    flat = jnp.reshape(x, (len(x), -1))
    return jnp.sin(9 * flat @ random_weight(3)) @ random_weight(4, 3, (3,))


def by_hand(norm, eps, steps, step_size):
    """All iterates x_0 .. x_steps, with an explicit loop and NumPy's projection."""
    x, iterates = IMAGE, [IMAGE]
    slope = jax.jit(jax.grad(lambda x: losses.cross_entropy(bumpy(x), LABEL3).sum()))
    axes = (1, 2, 3)
    for _ in range(steps):
        g = np.asarray(slope(x))
        if norm == "linf":
            x = np.clip(x + step_size * np.sign(g), IMAGE - eps, IMAGE + eps)
        elif norm == "l1":
            steepest = abs(g) == abs(g).max(axes, keepdims=True)
            moved = x + step_size * np.sign(g) * steepest - IMAGE
            size, a = np.float64(abs(moved)), np.zeros((COUNT, 1, 1, 1))
            for _ in range(100):
                # Newton's way to the a with sum max(size - a, 0) = eps, from below.
                kept = np.maximum(size - a, 0)
                excess = np.maximum(kept.sum(axes, keepdims=True) - eps, 0)
                count = (kept > 0).sum(axes, keepdims=True)
                a = a + excess / np.maximum(count, 1)
            x = IMAGE + np.sign(moved) * np.maximum(size - a, 0)
        else:
            x = x + step_size * g / np.sqrt((g**2).sum(axes, keepdims=True))
            size = np.sqrt(((x - IMAGE) ** 2).sum(axes, keepdims=True))
            x = IMAGE + (x - IMAGE) * np.minimum(1, eps / size)
        x = np.clip(x, 0, 1).astype(np.float32)
        iterates.append(x)
    return iterates


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_is_the_loop_of_its_docstring(norm):
    options = {"step_size": 0.06, "num_steps": 3}
    x = attack(norm, 0.15, logits=bumpy, label=LABEL3, **options)
    np.testing.assert_allclose(x, by_hand(norm, 0.15, 3, 0.06)[-1], atol=2e-5)


def margin(x):
    return np.asarray(losses.margin(bumpy(x), LABEL3))


def test_keep_best_returns_the_iterate_of_largest_margin():
    options = {"step_size": 0.06, "num_steps": 6, "keep_best": True}
    x = attack("linf", 0.15, logits=bumpy, label=LABEL3, **options)
    margins = np.stack([margin(step) for step in by_hand("linf", 0.15, 6, 0.06)])
    np.testing.assert_allclose(margin(x), margins.max(0), atol=1e-3)
    # The law is about something: the last iterate alone would lose rows.
    assert (margins.max(0) > margins[-1] + 0.01).any()


def test_an_image_that_is_misread_from_the_start_stays_misread():
    options = {"step_size": 0.5, "num_steps": 1, "keep_best": True}
    fooled = margin(IMAGE) > 0
    assert fooled.any()
    x = attack("linf", 0.3, logits=bumpy, label=LABEL3, **options)
    assert (margin(x)[fooled] > 0).all()


def test_more_restarts_never_help_the_defender():
    options = {"start": "uniform", "num_steps": 2, "logits": bumpy, "label": LABEL3}
    one, three = (
        margin(attack("linf", 0.15, num_restarts=n, keep_best=True, **options))
        for n in (1, 3)
    )
    assert (three >= one - 1e-6).all() and three.mean() > one.mean() + 0.01


@pytest.mark.parametrize(
    "options,passes",
    (
        ({}, 2 * 3),
        ({"keep_best": True}, 2 * 3 + 1),
        ({"num_restarts": 2}, 2 * (2 * 3 + 1)),
    ),
)
def test_what_an_attack_costs(options, passes):
    # Of a linear model, forward and backward are one product each; keeping the best
    # costs one more forward pass and nothing in the loop.
    threat = make_threat("linf", 0.1)
    built = pgd(threat, losses.cross_entropy, **PLAIN | {"num_steps": 3} | options)
    run = lambda keys, image: built(keys, linear_logits(TWO), image, LABEL2)
    assert count_dots(run, KEYS, IMAGE) == passes


def test_no_steps_return_the_start():
    np.testing.assert_array_equal(attack("linf", 0.1, num_steps=0), IMAGE)
    near = attack("linf", 0.1, num_steps=0, start="gaussian") - IMAGE
    assert 0 < abs(near).max() < 0.006 and abs(near.std() - 1e-3) < 2e-4


def test_unknown_start_lists_the_known_ones():
    with pytest.raises(UserError, match="choose from gaussian, none, uniform"):
        attack("linf", 0.1, start="zero")
