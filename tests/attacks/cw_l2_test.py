"""CW-l2 finds the closed-form distance of a linear model, with a c for each image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.cw_l2 import cw_l2
from jaxrobust.errors import UserError
from jaxrobust.threat import make_threat
from tests.helpers import count_dots, image_keys, linear_logits, random_images
from tests.helpers import random_weight as weight_of

COUNT = 10
KEYS = image_keys(np.arange(COUNT))
IMAGE = random_images(COUNT, low=0.35, high=0.65)
WEIGHT = weight_of(5, 2)
UPHILL = WEIGHT[:, 1] - WEIGHT[:, 0]
BIAS = np.float32([0.5 * UPHILL.sum(), 0.0])
GAP = IMAGE.reshape(COUNT, -1) @ UPHILL - BIAS[0]
LABEL = (GAP > 0).astype(np.int32)
SIZE = np.sqrt((UPHILL**2).sum())
LOGITS = linear_logits(WEIGHT, jnp.asarray(BIAS)[None])
SEARCH = {
    "num_steps": 150,
    "binary_search_steps": 9,
    "learning_rate": 0.002,
    "initial_const": 1e-3,
    "confidence": 0.0,
    "bounded": False,
}


def attack(norm="l2", eps=0.5, label=LABEL, image=IMAGE, logits=LOGITS, **options):
    built = cw_l2(make_threat(norm, eps), **SEARCH | options)
    run = jax.jit(lambda keys, image: built(keys, logits, image, label))
    return np.asarray(run(KEYS, image))


def length(x, image=IMAGE):
    return np.sqrt(((x - image) ** 2).sum((1, 2, 3)))


def margin(x, label=LABEL):
    return np.asarray(losses.margin(LOGITS(x), label))


@pytest.mark.parametrize("confidence", (0.0, 1.0))
def test_linear_model_is_left_by_the_shortest_way(confidence):
    x = attack(confidence=confidence)
    assert (margin(x) > confidence).all()
    shortest = (abs(GAP) + confidence) / SIZE
    assert (length(x) > 0.999 * shortest).all()
    assert (length(x) < 1.05 * shortest).all()


def test_the_search_grows_c_until_it_succeeds():
    # c = 1e-3 takes Adam's first steps across near borders only.
    one, five = ((margin(attack(binary_search_steps=n)) > 0).sum() for n in (1, 5))
    assert one < COUNT / 2 and five == COUNT


def test_the_search_shrinks_a_c_that_is_too_large():
    one = length(attack(binary_search_steps=1, initial_const=100.0))
    nine = length(attack(binary_search_steps=9, initial_const=100.0))
    assert (nine <= one).all() and nine.mean() < 0.9 * one.mean()


def test_one_c_reaches_as_far_as_it_is_worth():
    # ||d||^2 + c (gap - <d, u>) is least at d = c u / 2, of length c ||u|| / 2.
    reach = 0.026
    options = {"initial_const": 2 * reach / SIZE, "binary_search_steps": 1}
    x = attack(num_steps=600, learning_rate=3e-4, **options)
    near = abs(GAP) / SIZE < reach
    assert 0 < near.sum() < COUNT
    assert (abs(GAP)[~near] / SIZE).min() < 2 * reach, "twice as far would not show"
    np.testing.assert_array_equal(margin(x) > 0, near)


def test_a_misread_image_is_not_touched():
    label = np.where(np.arange(COUNT) % 2, 1 - LABEL, LABEL)
    same = (attack(label=label, binary_search_steps=4) == IMAGE).all((1, 2, 3))
    assert same[1::2].all() and not same[::2].all()


def test_bounded_gives_up_outside_the_ball():
    free = attack()
    eps = float(np.median(length(free)))
    x = attack(eps=eps, bounded=True)
    inside = np.asarray(length(free) <= eps)[:, None, None, None]
    assert 0 < inside.sum() < COUNT
    np.testing.assert_array_equal(x, np.where(inside, free, IMAGE))


def test_pixels_at_their_bounds_move():
    image = np.round(IMAGE)
    gap = image.reshape(COUNT, -1) @ UPHILL - BIAS[0]
    label = (gap > 0).astype(np.int32)
    # The first steps from a bound are slow: tanh is flat there.
    options = {"learning_rate": 0.3, "initial_const": 10.0, "binary_search_steps": 2}
    x = attack(image=image, label=label, **options)
    assert (margin(x, label) > 0).all()
    assert x.min() >= 0 and x.max() <= 1


def test_another_norm_is_for_unbounded_tables_only():
    np.testing.assert_array_equal(attack("linf"), attack("l2"))
    with pytest.raises(UserError, match="bounded = False"):
        attack("linf", bounded=True)


def test_no_search_at_all_is_the_users_mistake():
    with pytest.raises(UserError, match="binary_search_steps >= 1"):
        attack(binary_search_steps=0)


def test_what_cw_costs():
    options = SEARCH | {"num_steps": 4, "binary_search_steps": 3}
    built = cw_l2(make_threat("l2", 0.5), **options)
    run = lambda keys, image: built(keys, LOGITS, image, LABEL)
    assert count_dots(run, KEYS, IMAGE) == 3 * 4 * 2 + 1
