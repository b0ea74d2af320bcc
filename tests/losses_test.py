"""Losses against their formulas in double precision."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxrobust import losses

BATCH, CLASSES = 32, 5
DRAW = np.random.default_rng(0)
LOGITS = (3 * DRAW.normal(size=(BATCH, CLASSES))).astype(np.float32)
OTHER = (3 * DRAW.normal(size=(BATCH, CLASSES))).astype(np.float32)
LABEL = DRAW.integers(0, CLASSES, BATCH).astype(np.int32)
SOFT = DRAW.dirichlet(np.ones(CLASSES), BATCH).astype(np.float32)
ROWS = np.arange(BATCH)
# log-probabilities and probabilities, computed in float64
LOG_P = scipy.special.log_softmax(LOGITS.astype(np.float64), axis=1)
LOG_Q = scipy.special.log_softmax(OTHER.astype(np.float64), axis=1)


def assert_close(found, expected, rtol=1e-5, atol=1e-6):
    assert found.shape == (BATCH,) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def test_cross_entropy_of_labels():
    assert_close(losses.cross_entropy(LOGITS, LABEL), -LOG_P[ROWS, LABEL])


def test_cross_entropy_of_distributions():
    assert_close(losses.cross_entropy(LOGITS, SOFT), -(SOFT * LOG_P).sum(1))


def test_margin_is_the_best_rival_minus_the_own_logit():
    rivals = LOGITS.copy()
    rivals[ROWS, LABEL] = -np.inf
    assert_close(losses.margin(LOGITS, LABEL), rivals.max(1) - LOGITS[ROWS, LABEL])


def test_margin_is_positive_exactly_where_the_image_is_misread():
    wrong = LOGITS.argmax(1) != LABEL
    assert 0 < wrong.sum() < BATCH
    np.testing.assert_array_equal(np.asarray(losses.margin(LOGITS, LABEL)) > 0, wrong)


def test_margin_of_a_distribution_is_that_of_its_peak():
    peak = losses.margin(LOGITS, SOFT.argmax(1))
    np.testing.assert_array_equal(losses.margin(LOGITS, SOFT), peak)


def test_margin_keeps_pushing_after_the_image_is_fooled():
    slope = jax.grad(lambda z: losses.margin(z, LABEL).sum())(LOGITS)
    rivals = LOGITS.copy()
    rivals[ROWS, LABEL] = -np.inf
    expected = np.zeros_like(LOGITS)
    expected[ROWS, rivals.argmax(1)] = 1
    expected[ROWS, LABEL] = -1
    np.testing.assert_array_equal(slope, expected)


def test_kl_divergence_equals_scipy():
    entropy = [scipy.stats.entropy(p, np.exp(q)) for p, q in zip(SOFT, LOG_Q)]
    assert_close(losses.kl_divergence(OTHER, SOFT), entropy)


def test_kl_between_equals_scipy():
    entropy = [scipy.stats.entropy(np.exp(p), np.exp(q)) for p, q in zip(LOG_P, LOG_Q)]
    assert_close(losses.kl_between(LOGITS, OTHER), entropy)


def test_kl_is_zero_at_home_and_positive_elsewhere():
    np.testing.assert_allclose(losses.kl_between(LOGITS, LOGITS), 0, atol=1e-6)
    home = losses.kl_divergence(LOGITS, jax.nn.softmax(LOGITS))
    np.testing.assert_allclose(home, 0, atol=1e-5)
    assert np.asarray(losses.kl_between(LOGITS, OTHER)).min() > 0
    shifted = losses.kl_between(LOGITS, LOGITS + 7)
    np.testing.assert_allclose(shifted, 0, atol=1e-5)


def test_kl_of_a_one_hot_target_is_the_cross_entropy():
    one_hot = np.eye(CLASSES, dtype=np.float32)[LABEL]
    assert_close(losses.kl_divergence(LOGITS, one_hot), -LOG_P[ROWS, LABEL])
    slope = jax.grad(lambda z: losses.kl_divergence(z, one_hot).sum())(LOGITS)
    assert bool(jnp.all(jnp.isfinite(slope)))


def test_boosted_cross_entropy_formula():
    p = np.exp(LOG_P)
    rivals = p.copy()
    rivals[ROWS, LABEL] = 0
    expected = -np.log(p[ROWS, LABEL]) - np.log(1 - rivals.max(1))
    assert_close(losses.boosted_cross_entropy(LOGITS, LABEL), expected, rtol=1e-4)


@pytest.mark.parametrize("scale", (1.0, 100.0, 1e4))
def test_confident_logits_give_finite_losses_and_gradients(scale):
    p = np.eye(CLASSES, dtype=np.float32)[LABEL]
    for name, loss in {**losses.LOSSES, "bce": losses.boosted_cross_entropy}.items():
        total = lambda z, loss=loss: loss(z, p).sum()
        value, slope = jax.value_and_grad(total)(scale * LOGITS)
        assert np.isfinite(value) and np.isfinite(slope).all(), name


def test_smooth_labels_are_distributions_that_keep_the_peak():
    rate = np.linspace(0, 0.9, BATCH).astype(np.float32)
    smooth = np.asarray(losses.smooth_labels(LABEL, CLASSES, rate))
    np.testing.assert_allclose(smooth.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(smooth[ROWS, LABEL], 1 - rate + rate / CLASSES, 1e-6)
    others = np.delete(smooth[-1], LABEL[-1])
    np.testing.assert_allclose(others, 0.9 / CLASSES, rtol=1e-6)
    np.testing.assert_array_equal(smooth[0], np.eye(CLASSES)[LABEL[0]])


def test_gradient_of_cross_entropy_is_p_minus_y():
    slope = jax.grad(lambda z: losses.cross_entropy(z, SOFT).sum())(LOGITS)
    np.testing.assert_allclose(slope, np.exp(LOG_P) - SOFT, atol=1e-6)


def test_kl_between_is_differentiable_in_both_arguments():
    slopes = jax.grad(lambda a, b: losses.kl_between(a, b).sum(), (0, 1))(LOGITS, OTHER)
    p, q = np.exp(LOG_P), np.exp(LOG_Q)
    gap = LOG_P - LOG_Q
    expected = p * (gap - (p * gap).sum(1, keepdims=True))
    np.testing.assert_allclose(slopes[0], expected, atol=1e-4)
    np.testing.assert_allclose(slopes[1], q - p, atol=1e-5)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_every_loss_is_by_example(name):
    loss = losses.LOSSES[name]
    assert list(inspect.signature(loss).parameters) == ["logits", "target"]
    whole = loss(LOGITS, SOFT)
    assert whole.shape == (BATCH,)
    for row in (0, 7):
        alone = loss(LOGITS[row : row + 1], SOFT[row : row + 1])
        np.testing.assert_allclose(whole[row], alone[0], rtol=1e-5, atol=1e-6)
