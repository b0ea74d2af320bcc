"""Gradient matching equals a direct computation, and its parts stay apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrobust import losses
from jaxrobust.distill.dc import gradient_match
from jaxrobust.distill.dsa import PUBLISHED, make_dsa, unchanged
from jaxrobust.distill.matching import layerwise, squared
from jaxrobust.distill.outer import BN_IMAGES, real_statistics
from jaxrobust.objectives.curvature import curvature
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.objectives.standard import standard
from tests.distill.toy import (
    IMAGES,
    KEY,
    REAL,
    SYNTHETIC,
    assert_real_images_match,
    by_class,
    network_of,
)
from tests.helpers import CLASSES, SHAPE, TinyNet

PIXELS = int(np.prod(SHAPE))


class Linear(nn.Module):
    """Softmax regression, where a parameter gradient is an outer product."""

    @nn.compact
    def __call__(self, image, train):
        """f32[B,H,W,C] -> f32[B,3]."""
        return nn.Dense(CLASSES)(image.reshape(len(image), -1))


def matcher(model, objective=None, attack=None, distance=layerwise, augment=unchanged):
    objective = standard() if objective is None else objective
    attack = no_attack if attack is None else attack
    return jax.jit(gradient_match(model, objective, attack, distance, augment))


def no_attack(keys, logits_fn, image, target):
    raise AssertionError("nothing attacks here")


def inner_product(a, b):
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def weight_gradient(image, label, weight, bias):
    """mean_i x_i (softmax(z_i) - e_y)^T by NumPy, f64[D,K]."""
    x = np.asarray(image, np.float64).reshape(len(image), -1)
    z = x @ weight + bias
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[:, label] -= 1
    return x.T @ p / len(x)


def by_hand(synthetic, real, weight, bias):
    total = 0.0
    for label in range(CLASSES):
        s = weight_gradient(synthetic[label], label, weight, bias)
        r = weight_gradient(real[label], label, weight, bias)
        norms = np.linalg.norm(s, axis=0) * np.linalg.norm(r, axis=0)
        total += np.sum(1 - np.sum(s * r, axis=0) / (norms + 1e-6))
    return total


def test_image_gradient_of_softmax_regression_against_central_differences():
    model = Linear()
    network = network_of(model)
    dense = network.params["Dense_0"]
    weight, bias = (np.asarray(dense[k], np.float64) for k in ("kernel", "bias"))
    value, grads = matcher(model)(network, SYNTHETIC, IMAGES, KEY)
    at = np.asarray(SYNTHETIC, np.float64)
    np.testing.assert_allclose(value, by_hand(at, IMAGES, weight, bias), rtol=1e-5)
    expected = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[place] = 1e-5
        up, down = (by_hand(at + sign * step, IMAGES, weight, bias) for sign in (1, -1))
        expected[place] = (up - down) / 2e-5
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(grads, expected, rtol=1e-3, atol=1e-5)


def test_images_that_are_the_real_ones_match_under_any_augmentation():
    model = TinyNet()
    augment = make_dsa(("scale", "cutout", "flip"), PUBLISHED, (0.5,), (0.2,), True)
    match = matcher(model, distance=squared, augment=augment)
    assert_real_images_match(match, model, atol=1e-9)


def test_a_class_sees_its_own_real_images_only():
    match, network = matcher(TinyNet()), network_of(TinyNet())
    other = IMAGES.at[1].set(0.3)
    a, b = (match(network, SYNTHETIC, real, KEY)[1] for real in (IMAGES, other))
    np.testing.assert_array_equal(a[::2], b[::2])
    assert np.abs(a[1] - b[1]).max() > 1e-3


def test_real_statistics_are_the_mean_and_the_biased_variance():
    model = TinyNet(norm=True)
    network = network_of(model)
    many = by_class(20, seed=4)
    stats = real_statistics(model, network, many)["BatchNorm_0"]
    dense = network.params["Dense_0"]
    x = np.asarray(many[:, :BN_IMAGES]).reshape(-1, PIXELS)
    hidden = x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    np.testing.assert_allclose(stats["mean"], hidden.mean(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stats["var"], hidden.var(0), rtol=1e-3, atol=1e-4)


def mean_ce(params, stats, model, x, label):
    logits = model.apply({"params": params, "batch_stats": stats}, x, train=False)
    return jnp.mean(losses.cross_entropy(logits, jnp.full(len(x), label)))


def total_of(real_gradient, model, network, stats):
    """sum over classes of <plain synthetic gradient, real_gradient(k)>, and its slope
    by the synthetic images."""

    def value(images):
        total = 0.0
        for k in range(CLASSES):
            plain = jax.grad(mean_ce)(network.params, stats, model, images[k], k)
            total += inner_product(plain, real_gradient(k))
        return total

    return jax.jit(jax.value_and_grad(value))(SYNTHETIC)


def test_a_curvature_penalty_enters_on_the_real_side_only():
    model = TinyNet(norm=True)
    network = network_of(model)
    stats = real_statistics(model, network, IMAGES)
    h, weight = 0.5, 3.0

    def penalised(params, k):
        slope = jax.grad(
            lambda x: len(x) * mean_ce(params, stats, model, x, k)  # a sum over rows
        )
        at = slope(IMAGES[k])
        norms = jnp.sqrt(jnp.sum(at**2, axis=(1, 2, 3), keepdims=True))
        bend = slope(IMAGES[k] + h * jax.lax.stop_gradient(at / norms)) - at
        penalty = jnp.sum(bend**2) / REAL
        return mean_ce(params, stats, model, IMAGES[k], k) + weight * penalty

    goal = lambda k: jax.grad(penalised)(network.params, k)
    expected, slope = total_of(goal, model, network, stats)
    guard = curvature(
        curv_weight=weight,
        curv_h=h,
        variant="squared",
        direction="gradient",
        term_bn="running",
    )
    match = matcher(model, guard, distance=inner_product)
    value, grads = match(network, SYNTHETIC, IMAGES, KEY)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(grads, slope, rtol=1e-3, atol=1e-5)
    plain = matcher(model, distance=inner_product)(network, SYNTHETIC, IMAGES, KEY)
    assert abs(plain[0] - value) > 1e-3 * abs(value)


@pytest.mark.parametrize("adversarial", (True, False))
def test_an_attack_moves_the_real_images_if_the_objective_wants_one(adversarial):
    model = TinyNet()
    network = network_of(model)
    shift = lambda keys, logits_fn, image, target: image + 0.1 * target[0]
    objective = pgd_at("adv") if adversarial else standard()

    def goal(k):
        x = IMAGES[k] + (0.1 * k if adversarial else 0.0)
        return jax.grad(mean_ce)(network.params, {}, model, x, k)

    expected, slope = total_of(goal, model, network, {})
    match = matcher(model, objective, shift, inner_product)
    value, grads = match(network, SYNTHETIC, IMAGES, KEY)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grads, slope, rtol=1e-3, atol=1e-6)
