"""The area of robust discrimination, and the two sets that it is learnt from."""

import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.proxy.discrimination import discrimination_area, discrimination_set

from .clouds import pixels


def test_area_of_a_triangle():
    assert discrimination_area([0, 0.1, 0.2], [1.0, 0.75, 0.5]) == pytest.approx(0.05)
    assert discrimination_area([0, 0.2], [1.0, 0.5]) == pytest.approx(0.05)


def test_uneven_radii_weigh_what_they_span():
    found = discrimination_area([0, 0.1, 0.4], [0.9, 0.7, 0.6])
    assert found == pytest.approx(0.1 * 0.3 + 0.3 * 0.15)


def test_chance_and_below_are_no_area():
    assert discrimination_area([0, 1, 2], [0.5, 0.3, 0.0]) == 0


@pytest.mark.parametrize(
    "eps, accuracy",
    [([0], [1.0]), ([0, 0], [1, 1]), ([1, 0], [1, 1]), ([0, 1], [1.0, 1.0, 1.0])],
)
def test_radii_must_increase_with_an_accuracy_each(eps, accuracy):
    with pytest.raises(UserError, match="increasing eps"):
        discrimination_area(eps, accuracy)


@pytest.mark.parametrize("wrong", [90.0, float("nan"), -0.1])
def test_accuracies_are_fractions(wrong):
    with pytest.raises(UserError, match=r"\[0,1\]"):
        discrimination_area([0, 1], [wrong, 0.5])


REAL = pixels([0] * 9 + [1] * 4 + [2] * 6)
MADE = pixels([2] * 5 + [0] * 20 + [1] * 7, seed=1, bright=60)


def test_halves_are_disjoint_and_balanced_by_class():
    train, held = discrimination_set(REAL, MADE, seed=3)
    rows = np.concatenate([train.source_rows, held.source_rows])
    assert len(set(rows)) == len(rows) == 2 * (9 + 4 + 5)
    whole = np.concatenate([REAL.image, MADE.image])
    classes = np.concatenate([REAL.label, MADE.label])
    for half in (train, held):
        np.testing.assert_array_equal(half.image, whole[half.source_rows])
        np.testing.assert_array_equal(half.label, half.source_rows >= len(REAL))
        real, made = (
            np.sort(classes[half.source_rows[half.label == k]]) for k in (0, 1)
        )
        np.testing.assert_array_equal(real, made)
        assert half.class_names == ("real", "generated")
    assert abs(len(train) - len(held)) <= 2 * 3


def test_the_split_is_a_function_of_the_seed():
    first = [discrimination_set(REAL, MADE, seed)[0].source_rows for seed in (1, 1, 2)]
    np.testing.assert_array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])


def test_one_image_of_each_class_leaves_no_halves():
    with pytest.raises(UserError, match="two images"):
        discrimination_set(pixels([0, 1]), pixels([1, 0]), 0)
