"""W1 against closed forms, SciPy and the laws of a metric."""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from jaxrobust.errors import UserError
from jaxrobust.proxy.wasserstein import (
    EXACT_MOST,
    METRICS,
    compared,
    conditional,
    cost_matrix,
    wasserstein1,
)

from .clouds import cloud, pixels

NORMS = sorted(METRICS)
LENGTH = {"l2": 2, "linf": np.inf, "l1": 1}


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_line_it_is_scipys(norm):
    a, b = cloud(40, 1, seed=1), 2 * cloud(40, 1, seed=2) + 0.3
    expected = wasserstein_distance(a[:, 0], b[:, 0])
    assert wasserstein1(a, b, norm) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_best_of_all_permutations(norm):
    a, b = cloud(6, seed=1), cloud(6, seed=2)
    cost = cdist(a, b, METRICS[norm])
    best = min(cost[range(6), list(p)].mean() for p in permutations(range(6)))
    assert wasserstein1(a, b, norm) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_a_shift_costs_its_length_in_any_order(norm):
    a, shift = cloud(50), np.array([0.5, -1.0, 0.2])
    moved = (a + shift)[np.random.default_rng(3).permutation(50)]
    expected = np.linalg.norm(shift, LENGTH[norm])
    assert wasserstein1(a, moved, norm) == pytest.approx(expected, rel=1e-9)
    assert wasserstein1(a, a[::-1], norm) == 0.0


@pytest.mark.parametrize("norm", NORMS)
def test_triangle_inequality_and_symmetry(norm):
    for seed in range(5):
        a, b, c = (cloud(20, seed=3 * seed + i) * (1 + i) for i in range(3))
        ab, bc, ac = (wasserstein1(*p, norm) for p in ((a, b), (b, c), (a, c)))
        assert ac < ab + bc
        assert wasserstein1(b, a, norm) == pytest.approx(ab, rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_costs_are_scipys_even_far_from_the_origin(norm):
    a, b = cloud(7, 5) + 1000, cloud(9, 5, seed=1) + 1000
    expected = cdist(a, b, METRICS[norm])
    np.testing.assert_allclose(cost_matrix(a, b, norm), expected, rtol=1e-6)


def test_conditional_weighs_classes_by_the_prior():
    a, label = cloud(30), np.repeat([0, 2], 15)
    moved = a + np.where(label == 0, 1.0, 4.0)[:, None]
    prior = np.array([0.75, 0.0, 0.25])
    found = conditional(partial(wasserstein1, norm="linf"), a, moved, label, prior)
    np.testing.assert_allclose(found.per_class, [1.0, np.nan, 4.0])
    assert found.mean == pytest.approx(0.75 * 1 + 0.25 * 4)


def test_classes_are_never_mixed():
    a, label = cloud(10), np.repeat([0, 1], 5)
    swapped = np.concatenate([a[5:], a[:5]])
    distance = partial(wasserstein1, norm="l2")
    assert wasserstein1(a, swapped, "l2") == 0
    assert conditional(distance, a, swapped, label, np.full(2, 0.5)).mean > 0.1


def test_compared_images_have_equal_labels_and_the_originals_prior():
    original = pixels([0] * 6 + [1] * 2 + [2] * 2)
    generated = pixels([2] * 5 + [0] * 4 + [1] * 1)
    pair = compared(original, generated, 3, seed=1)
    assert pair.label.tolist() == [0, 0, 0, 1, 2, 2]
    np.testing.assert_array_equal(original.label[pair.original], pair.label)
    np.testing.assert_array_equal(generated.label[pair.generated], pair.label)
    assert len(set(pair.original)) == len(set(pair.generated)) == 6
    np.testing.assert_allclose(pair.prior, [0.6, 0.2, 0.2])
    assert pair.label_shift == pytest.approx(0.3)
    others = [compared(original, generated, 3, seed=s).original for s in range(2, 8)]
    assert any(not np.array_equal(pair.original, other) for other in others)
    again = compared(original, generated, 3, seed=1)
    np.testing.assert_array_equal(pair.generated, again.generated)


def test_sets_that_cannot_be_compared_are_refused():
    whole, part = pixels([0, 1, 2]), pixels([0, 1, 1])
    with pytest.raises(UserError, match="'ox' has no generated image"):
        compared(whole, part, 5, 0)
    with pytest.raises(UserError, match="'ox' has no original image"):
        compared(part, whole, 5, 0)
    with pytest.raises(UserError, match="same classes"):
        compared(whole, pixels([0, 1, 2], names=("a", "b", "c")), 5, 0)
    with pytest.raises(UserError, match="limit_per_class"):
        compared(whole, whole, 0, 0)
    # A class of neither set is no obstacle.
    assert compared(part, part, 5, 0).label.tolist() == [0, 1, 1]


def test_misuse_is_named():
    with pytest.raises(UserError, match="equal sizes"):
        wasserstein1(cloud(3), cloud(4), "l2")
    with pytest.raises(UserError, match="unknown norm"):
        wasserstein1(cloud(3), cloud(3), "l3")
    many = np.zeros((EXACT_MOST + 1, 1))
    with pytest.raises(UserError, match="sinkhorn"):
        wasserstein1(many, many, "l2")
