"""DeepFool lands just behind the nearest border of a linear model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.deepfool import deepfool
from jaxrobust.errors import UserError
from jaxrobust.threat import make_threat
from tests.helpers import image_keys, linear_logits, random_images, random_weight

COUNT, CLASSES = 16, 5
KEYS = image_keys(np.arange(COUNT))
IMAGE = random_images(COUNT, low=0.4, high=0.6)
WEIGHT = random_weight(1, CLASSES) * np.float32([1, 0.3, 2, 1, 3])
BIAS = -0.5 * WEIGHT.sum(0)
FLAT = IMAGE.reshape(COUNT, -1)
LOGITS = FLAT @ WEIGHT + BIAS
LABEL = np.argmax(LOGITS, axis=1)
NORMS = ("linf", "l2")


def attack(norm, eps=0.4, label=LABEL, logits=None, **options):
    plain = {"num_steps": 3, "overshoot": 0.02, "num_candidates": 9, "bounded": False}
    built = deepfool(make_threat(norm, eps), **plain | options)
    logits = logits or linear_logits(WEIGHT, jnp.asarray(BIAS)[None])
    return np.asarray(jax.jit(lambda k, x: built(k, logits, x, label))(KEYS, IMAGE))


def borders(norm):
    """(distance f32[B,K] to the border of every class, inf for the own one; the unit
    step towards each, f32[B,K,D])."""
    slope = WEIGHT.T[None] - WEIGHT.T[LABEL][:, None]
    size = abs(slope).sum(2) if norm == "linf" else np.sqrt((slope**2).sum(2))
    gap = LOGITS[np.arange(COUNT), LABEL][:, None] - LOGITS
    own = np.arange(CLASSES)[None] == LABEL[:, None]
    size = np.where(own, 1.0, size)
    step = np.sign(slope) if norm == "linf" else slope / size[:, :, None]
    return np.where(own, np.inf, gap / size), step


def fooled(x, label=LABEL):
    return np.argmax(x.reshape(COUNT, -1) @ WEIGHT + BIAS, axis=1) != label


@pytest.mark.parametrize("norm", NORMS)
def test_linear_model_is_left_by_the_nearest_border(norm):
    distance, step = borders(norm)
    nearest, rows = distance.argmin(1), np.arange(COUNT)
    length = 1.02 * (distance[rows, nearest] + 1e-4)
    expected = FLAT + length[:, None] * step[rows, nearest]
    assert expected.min() > 0 and expected.max() < 1, "the box is in the way"
    x = attack(norm)
    np.testing.assert_allclose(x.reshape(COUNT, -1), expected, atol=1e-5)
    assert fooled(x).all()


@pytest.mark.parametrize("norm", NORMS)
def test_bounded_gives_up_at_eps(norm):
    free = attack(norm)
    size = np.asarray(make_threat(norm, 1.0).distance(free, IMAGE))
    eps = float(np.median(size))
    x = attack(norm, eps, bounded=True)
    inside = (size <= eps)[:, None, None, None]
    assert 0 < inside.sum() < COUNT
    np.testing.assert_array_equal(x, np.where(inside, free, IMAGE))


def test_one_candidate_is_the_runner_up():
    # The runner-up is not always the nearest in l2.
    distance, _ = borders("l2")
    runner_up = np.argsort(LOGITS, axis=1)[:, -2]
    assert (runner_up != distance.argmin(1)).any()
    size = make_threat("l2", 1.0).distance(attack("l2", num_candidates=1), IMAGE)
    expected = 1.02 * (distance[np.arange(COUNT), runner_up] + 1e-4)
    np.testing.assert_allclose(size, expected, atol=1e-5)


def test_a_misread_image_is_not_touched():
    label = (LABEL + np.arange(COUNT) % 2) % CLASSES
    x = attack("l2", label=label)
    same = (x == IMAGE).all((1, 2, 3))
    np.testing.assert_array_equal(same, np.arange(COUNT) % 2 == 1)


def test_too_few_steps_return_the_clean_image():
    curved = lambda x: jnp.stack(
        [jnp.full(len(x), 1.0), jnp.mean(x, (1, 2, 3)) ** 4], axis=1
    )
    label = np.zeros(COUNT, np.int32)
    np.testing.assert_array_equal(attack("l2", label=label, logits=curved), IMAGE)


def test_a_flat_network_is_no_nan():
    flat = lambda x: (
        0 * linear_logits(WEIGHT, jnp.asarray(BIAS)[None])(x) + jnp.eye(CLASSES)[LABEL]
    )
    np.testing.assert_array_equal(attack("linf", logits=flat), IMAGE)


def test_curved_borders_take_more_steps():
    weight = random_weight(2, 3)
    logits = lambda x: jnp.sin(2 * linear_logits(weight)(x))
    label = np.argmax(logits(IMAGE), axis=1)
    margin = lambda x: np.asarray(losses.margin(logits(x), label))
    counts = [
        (margin(attack("l2", label=label, logits=logits, num_steps=n)) > 0).sum()
        for n in (1, 20)
    ]
    assert counts[0] < counts[1] == COUNT


def test_l1_lists_what_is_supported():
    with pytest.raises(UserError, match="linf, l2"):
        attack("l1")
