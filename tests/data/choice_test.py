import numpy as np
import pytest

from jaxrobust.data import choice

from .conftest import assert_refused

SKEWED = np.repeat([0, 1, 2, 4], [900, 90, 9, 1])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 17, 100, 500, 999, 1000])
def test_shares_are_proportional_within_one_image(count):
    counts = np.bincount(SKEWED)
    share = choice.shares(counts, count, np.arange(5))
    assert share.sum() == count
    assert (share <= counts).all() and (share >= 0).all()
    exact = counts * count / counts.sum()
    if count >= 4:
        assert (share[counts > 0] >= 1).all()
        assert (share >= np.floor(exact) - 2).all()
    else:
        assert (np.abs(share - exact) < 1).all()


def test_shares_of_balanced_classes_differ_by_at_most_one():
    for count in range(1, 101):
        share = choice.shares(np.full(10, 10), count, np.arange(10))
        assert share.sum() == count and np.ptp(share) <= 1


def test_stratified_draws_different_rows_in_random_order():
    label = np.repeat(np.arange(10), 50)
    drawn = choice.stratified(label, 200, seed=3, purpose="train")
    assert len(set(drawn)) == 200
    np.testing.assert_array_equal(np.bincount(label[drawn]), np.full(10, 20))
    assert (np.diff(label[drawn]) < 0).sum() > 40


def test_stratified_is_a_function_of_seed_and_purpose():
    label = np.repeat(np.arange(3), 50)
    first = choice.stratified(label, 30, 0, "train")
    np.testing.assert_array_equal(first, choice.stratified(label, 30, 0, "train"))
    assert set(first) != set(choice.stratified(label, 30, 1, "train"))
    assert set(first) != set(choice.stratified(label, 30, 0, "val"))


def test_stratified_draws_every_row_equally_often():
    label = np.repeat([0, 1], [20, 40])
    hits = np.zeros(60)
    for seed in range(300):
        hits[choice.stratified(label, 15, seed, "pool")] += 1
    # Binomial(300, 1/4): mean 75, standard deviation 7.5.
    assert np.abs(hits - 75).max() < 4 * 7.5


def test_unsplit_parts_are_disjoint_whole_and_four_to_one():
    label = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 30, 20]))
    train, test = choice.unsplit(label, "train"), choice.unsplit(label, "test")
    np.testing.assert_array_equal(np.sort(np.r_[train, test]), np.arange(100))
    np.testing.assert_array_equal(np.bincount(label[test]), [10, 6, 4])


def test_unsplit_leaves_every_class_on_both_sides():
    label = np.repeat([0, 1, 2], [2, 2, 90])
    for split in ("train", "test"):
        assert set(label[choice.unsplit(label, split)]) == {0, 1, 2}
    with assert_refused("class number 1", "one image"):
        choice.unsplit(np.array([0, 0, 1]), "train")
