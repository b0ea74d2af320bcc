"""Differential evolution over pixels, against brute force on a linear model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.one_pixel import _three_others, one_pixel
from jaxrobust.errors import UserError
from jaxrobust.threat import make_threat
from tests.helpers import count_dots, image_keys, linear_logits, random_images
from tests.helpers import random_weight as weight_of

COUNT, SHAPE = 6, (5, 4, 2)
KEYS = image_keys(np.arange(COUNT))
IMAGE = random_images(COUNT, shape=SHAPE)
WEIGHT = weight_of(0, 2, SHAPE)
LABEL = np.arange(COUNT) % 2
UPHILL = (WEIGHT[:, 1 - LABEL] - WEIGHT[:, LABEL]).T.reshape(IMAGE.shape)
OPTIONS = {"pixels": 1, "population": 30, "generations": 30, "mutation": 0.5}


def attack(logits=None, keys=KEYS, **options):
    built = one_pixel(make_threat("linf", 0.0), **OPTIONS | options)
    logits = logits or linear_logits(WEIGHT)
    run = jax.jit(lambda keys, image: built(keys, logits, image, LABEL))
    return np.asarray(run(keys, IMAGE))


def changed(x):
    return (x != IMAGE).any(3).sum((1, 2))


def gain(x):
    """How far the margin of the linear model rose, f32[B]."""
    return ((x - IMAGE) * UPHILL).sum((1, 2, 3))


def best_gains():
    """Of every pixel on its own, largest first, f32[B,H*W]."""
    corner = np.where(UPHILL > 0, 1 - IMAGE, -IMAGE)
    return -np.sort(-(corner * UPHILL).sum(3).reshape(COUNT, -1), axis=1)


@pytest.mark.parametrize("pixels,share", ((1, 0.99), (3, 0.75)))
def test_linear_optimum_is_the_best_pixels_at_their_bounds(pixels, share):
    x = attack(pixels=pixels, population=100, generations=60)
    optimum = best_gains()[:, :pixels].sum(1)
    assert (gain(x) <= optimum + 1e-5).all()
    assert (gain(x) > share * optimum).all()


def test_at_most_so_many_pixels_change_and_colours_stay_valid():
    x = attack(pixels=3, generations=3)
    assert changed(x).max() == 3
    assert x.min() >= 0 and x.max() <= 1


def test_generations_never_lose_the_best():
    first, last = (gain(attack(generations=n)) for n in (0, 6))
    assert (last >= first - 1e-6).all() and last.mean() > first.mean() + 0.1


def test_every_place_is_reached():
    # A network that reads one corner only: the last row and column count as well.
    last = jnp.zeros((*SHAPE, 2)).at[-1, -1, :, 0].set(1.0)
    corner = linear_logits(jnp.reshape(last, (-1, 2)))
    x = attack(corner, population=60, generations=5)
    where = np.argwhere((x != IMAGE).any(3))
    assert len(where) == COUNT and (where[:, 1:] == (4, 3)).all()


def test_the_clean_image_comes_back_where_nothing_helps():
    flat = lambda x: jnp.zeros((len(x), 2)) + 0 * x[:, 0, 0]
    np.testing.assert_array_equal(attack(flat, generations=1), IMAGE)


def test_parents_are_three_different_others():
    size = 5
    numbers = jnp.broadcast_to(jnp.arange(size)[None, :, None, None], (40, size, 1, 1))
    keys = image_keys(np.arange(40))
    parents = jnp.stack([numbers, *_three_others(keys, numbers)], axis=-1)
    parents = np.asarray(parents).reshape(-1, 4)
    assert all(len(set(row)) == 4 for row in parents)
    # Each is drawn about equally often.
    offsets = (parents[:, 1:] - parents[:, :1]) % size
    for column in offsets.T:
        assert np.bincount(column, minlength=size)[1:].min() > 30


def test_what_one_pixel_costs():
    built = one_pixel(make_threat("linf", 0.0), 1, 5, 3, 0.5)
    run = lambda keys, image: built(keys, linear_logits(WEIGHT), image, LABEL)
    assert count_dots(run, KEYS, IMAGE) == 5 * (3 + 1) + 1


def test_margin_of_the_result_is_never_below_the_clean_one():
    network = lambda x: jnp.tanh(linear_logits(weight_of(3, 3, SHAPE))(x))
    margin = lambda x: np.asarray(losses.margin(network(x), LABEL))
    assert (margin(attack(network, generations=2)) >= margin(IMAGE)).all()


def test_too_few_candidates_are_the_users_mistake():
    with pytest.raises(UserError, match="population >= 4"):
        attack(population=3)
