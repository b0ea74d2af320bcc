"""take_top against sorting in NumPy, for every order, with ties and classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.selection import ORDERS, padded_size, take_top

KEY = jax.random.key(0)
SIZE = 41
DRAW = np.random.default_rng(0)
SCORE = DRAW.normal(size=SIZE).astype(np.float32)
TIED = DRAW.integers(0, 4, SIZE).astype(np.float32)
LABEL = DRAW.choice(3, SIZE, p=(0.6, 0.3, 0.1)).astype(np.int32)
BUDGETS = pytest.mark.parametrize("budget", (1, 6, 20, SIZE))
RANKED = pytest.mark.parametrize("order", ("hard", "easy", "mid"))
SCORES = pytest.mark.parametrize("score", (SCORE, TIED), ids=("distinct", "tied"))


def take(score, budget, order="hard", balanced=False, key=KEY, label=LABEL, more=()):
    """`more`: scores of rows that do not count, of class 0."""
    size = len(score)
    score = jnp.concatenate([score, jnp.asarray(more, jnp.float32)])
    label = jnp.pad(jnp.asarray(label), (0, len(more)))
    return np.asarray(take_top(score, label, key, size, budget, order, balanced))


def preference(score, order):
    """What is taken first has the smallest value; a list of floats."""
    if order == "mid":
        # Ranks among all, equal scores ranked by position.
        rank = np.empty(SIZE)
        rank[sorted(range(SIZE), key=lambda i: (score[i], i))] = np.arange(SIZE)
        return list(abs(rank - (SIZE - 1) / 2))
    return list(-score if order == "hard" else score)


def by_hand(score, budget, order):
    cost = preference(score, order)
    return sorted(sorted(range(SIZE), key=lambda i: (cost[i], i))[:budget])


@SCORES
@RANKED
@BUDGETS
def test_the_top_is_that_of_a_full_sort(score, order, budget):
    np.testing.assert_array_equal(
        take(score, budget, order), by_hand(score, budget, order)
    )


@SCORES
@RANKED
@BUDGETS
def test_the_balanced_top_deals_to_the_classes_in_turn(score, order, budget):
    cost = preference(score, order)
    by_class = [
        sorted(np.flatnonzero(LABEL == k), key=lambda i: (cost[i], i)) for k in range(3)
    ]
    turn = {i: place for rows in by_class for place, i in enumerate(rows)}
    expected = sorted(range(SIZE), key=lambda i: (turn[i], cost[i], i))[:budget]
    found = take(score, budget, order, balanced=True)
    np.testing.assert_array_equal(found, sorted(expected))


@pytest.mark.parametrize("order", ORDERS)
@BUDGETS
def test_class_counts_differ_by_at_most_one_until_a_class_runs_out(order, budget):
    found = take(SCORE, budget, order, balanced=True)
    counts, supply = (np.bincount(x, minlength=3) for x in (LABEL[found], LABEL))
    rest = counts < supply
    assert counts.sum() == budget == len(set(found.tolist()))
    if rest.any():
        assert counts.max() - counts[rest].min() <= 1


def test_equal_scores_go_by_position():
    flat = np.zeros(SIZE, np.float32)
    np.testing.assert_array_equal(take(flat, 7), np.arange(7))
    np.testing.assert_array_equal(take(flat, 7, "easy"), np.arange(7))


def test_the_middle_is_the_middle():
    score = np.arange(SIZE, dtype=np.float32)
    np.testing.assert_array_equal(take(score, 3, "mid"), [19, 20, 21])


def test_random_ignores_scores_and_follows_its_key():
    first = take(SCORE, 20, "random")
    np.testing.assert_array_equal(first, take(-SCORE, 20, "random"))
    assert not np.array_equal(first, take(SCORE, 20, "random", key=jax.random.key(1)))
    counts = np.zeros(SIZE)
    for seed in range(100):
        counts[take(SCORE, 20, "random", key=jax.random.key(seed))] += 1
    # Each place is taken 100 * 20 / 41 = 49 times, standard deviation 5.
    assert counts.min() > 25 and counts.max() < 75


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("balanced", (False, True))
def test_the_answer_is_ascending_without_repeats(order, balanced):
    found = take(TIED, 23, order, balanced)
    assert found.dtype == np.int32 and len(found) == 23
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("budget", (0, -1, SIZE + 1))
def test_an_impossible_budget_says_what_is_possible(budget):
    with pytest.raises(UserError, match=f"from 1 to {SIZE}"):
        take(SCORE, budget)


def test_an_unknown_order_lists_the_known_ones():
    with pytest.raises(UserError, match="choose from easy, hard, mid, random"):
        take(SCORE, 3, "hardest")


@pytest.mark.parametrize("balanced", (False, True))
@RANKED
@BUDGETS
def test_rows_that_do_not_count_change_nothing(order, budget, balanced):
    alone = take(TIED, budget, order, balanced)
    extreme = (-9.0, 0.0, 1.0, 2.0, 9.0)
    np.testing.assert_array_equal(
        alone, take(TIED, budget, order, balanced, more=extreme)
    )


@pytest.mark.parametrize("balanced", (False, True))
def test_random_takes_only_rows_that_count(balanced):
    found = take(SCORE, SIZE, "random", balanced, more=[0.0] * 7)
    np.testing.assert_array_equal(found, np.arange(SIZE))


def test_pools_of_about_one_size_share_a_program():
    sizes = [padded_size(count) for count in range(1, 5000)]
    assert all(0 <= size - n <= n / 8 for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 100
    assert padded_size(121) == padded_size(125) == 128
