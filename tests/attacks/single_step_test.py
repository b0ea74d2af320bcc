"""FGSM and its relatives against their formulas on a linear model."""

import jax
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.fgsm import fgsm, fgsm_rs, nfgsm
from jaxrobust.attacks.gradient import image_gradient
from jaxrobust.threat import NORMS, make_threat
from tests.helpers import image_keys, linear_logits, random_images, random_weight

COUNT, EPS = 10, 0.05
KEYS = image_keys(np.arange(COUNT))
IMAGE = random_images(COUNT, low=0.4, high=0.6)
WEIGHT = random_weight(classes=2)
LABEL = np.arange(COUNT) % 2
UPHILL = (WEIGHT[:, 1 - LABEL] - WEIGHT[:, LABEL]).T.reshape(IMAGE.shape)


def direction(norm):
    if norm == "linf":
        return np.sign(UPHILL)
    if norm == "l1":
        size = abs(UPHILL)
        return np.sign(UPHILL) * (size == size.max((1, 2, 3), keepdims=True))
    return UPHILL / np.sqrt((UPHILL**2).sum((1, 2, 3), keepdims=True))


def run(built):
    attack = jax.jit(lambda k, x: built(k, linear_logits(WEIGHT), x, LABEL))
    return np.asarray(attack(KEYS, IMAGE))


@jax.jit
def drawn(threat):
    """The same draw for every eps: one compilation for each norm."""
    return threat.random_init(KEYS, IMAGE)


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_is_one_step_of_eps(norm):
    x = run(fgsm(make_threat(norm, EPS), losses.cross_entropy))
    np.testing.assert_allclose(x, IMAGE + EPS * direction(norm), atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_rs_is_a_draw_and_a_step_projected(norm):
    threat = make_threat(norm, EPS)
    x = run(fgsm_rs(threat, losses.cross_entropy, 1.25))
    moved = drawn(threat) + 1.25 * EPS * direction(norm)
    expected = threat.project(moved, IMAGE)
    np.testing.assert_allclose(x, expected, atol=1e-6)
    # A step of 1.25 eps cannot cross the ball from everywhere in it.
    assert not np.allclose(x, IMAGE + EPS * direction(norm), atol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_nfgsm_adds_its_step_to_its_noise_without_projection(norm):
    x = run(nfgsm(make_threat(norm, EPS), losses.cross_entropy, 2.0, 1.0))
    noise = drawn(make_threat(norm, 2 * EPS))
    np.testing.assert_allclose(x, noise + EPS * direction(norm), atol=1e-6)
    distance = np.asarray(make_threat(norm, EPS).distance(x, IMAGE))
    assert distance.max() > 1.5 * EPS


def test_nfgsm_without_noise_is_fgsm():
    threat = make_threat("linf", EPS)
    x = run(nfgsm(threat, losses.cross_entropy, 0.0, 1.0))
    np.testing.assert_array_equal(x, run(fgsm(threat, losses.cross_entropy)))


def test_image_gradient_is_of_the_sum_and_hands_on_the_forward_pass():
    logits_fn = linear_logits(WEIGHT)
    gradient = image_gradient(logits_fn, losses.margin, LABEL)
    g, (values, logits) = gradient(IMAGE)
    np.testing.assert_allclose(g, UPHILL, rtol=1e-5)
    np.testing.assert_allclose(logits, logits_fn(IMAGE), rtol=1e-6)
    np.testing.assert_allclose(values, losses.margin(logits, LABEL), rtol=1e-6)
    alone, _ = image_gradient(logits_fn, losses.margin, LABEL[:1])(IMAGE[:1])
    np.testing.assert_allclose(alone, g[:1], rtol=1e-6)
