"""CRAIG against a plain greedy in NumPy, brute force and random choice."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import features
from jaxrobust.errors import UserError
from jaxrobust.features import Factors
from jaxrobust.selection import coreset
from jaxrobust.selection.craig import craig, greedy, similarity
from tests.selection.gradients import clustered, digits_gradients, random_error

KEY = jax.random.key(0)
SMALL = clustered(60, classes=3, seed=1)
BRANCHED = Factors(
    jnp.concatenate([SMALL[0].delta, SMALL[0].delta[::-1]], axis=1),
    jnp.concatenate([SMALL[0].embedding, SMALL[0].embedding[::-1]], axis=1),
)


def alike(factors, rows):
    """The similarities that the package works with, f64."""
    inside = features.take(factors, jnp.asarray(rows))
    return np.asarray(similarity(inside, jnp.ones(len(rows), bool)), np.float64)


def value(s, chosen):
    """F(S) = sum_i max_j s_ij."""
    return s[:, list(chosen)].max(axis=1).sum()


def plain_greedy(s, budget):
    """Picks in order, and how many points belong to each."""
    cover, picks = np.zeros(len(s)), []
    for _ in range(budget):
        gain = np.maximum(s - cover[:, None], 0).sum(axis=0)
        gain[picks] = -1
        picks.append(int(np.argmax(gain)))
        cover = np.maximum(cover, s[:, picks[-1]])
    owner = np.argmax(s[:, picks], axis=1)
    return picks, np.bincount(owner, minlength=budget)


def by_class(factors, label, budget):
    """{position: weight} of a plain greedy in each class."""
    groups = coreset.groups_of(label)
    found = {}
    for rows, share in zip(groups, coreset.quotas([*map(len, groups)], budget)):
        picks, sizes = plain_greedy(alike(factors, rows), share)
        found |= dict(zip(rows[picks].tolist(), sizes.tolist()))
    return found


def answer(picked):
    return dict(zip(picked.index.tolist(), picked.weight.tolist()))


@pytest.mark.parametrize("budget", (3, 20, 60))
@pytest.mark.parametrize("factors", (SMALL[0], BRANCHED), ids=("ce", "trades"))
def test_the_picks_are_those_of_a_plain_greedy(factors, budget):
    picked = craig(factors, SMALL[1], budget, KEY)
    assert answer(picked) == by_class(factors, SMALL[1], budget)
    assert (np.diff(picked.index) > 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_close_to_the_best(seed):
    factors, _ = clustered(10, classes=2, seed=seed)
    s = alike(factors, np.arange(10))
    picked = craig(factors, np.zeros(10), 4, KEY)
    best = max(value(s, chosen) for chosen in combinations(range(10), 4))
    assert value(s, picked.index.tolist()) >= (1 - np.exp(-1)) * best


def test_imbalanced_classes_share_the_budget():
    sizes = (100, 90, 40, 12, 3, 1)
    factors, _ = clustered(sum(sizes), classes=6, seed=2)
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(6), sizes))
    picked = craig(factors, label, 50, KEY)
    counts = np.bincount(label[np.asarray(picked.index)])
    np.testing.assert_array_equal(counts, coreset.quotas(sizes, 50))
    assert answer(picked) == by_class(factors, label, 50)
    per_class = np.bincount(label[np.asarray(picked.index)], picked.weight)
    np.testing.assert_array_equal(per_class, sizes)
    assert picked.facts["block_error"].shape == (6,)


def test_shares_of_the_budget():
    np.testing.assert_array_equal(coreset.quotas([10, 10, 10], 10), [4, 3, 3])
    np.testing.assert_array_equal(coreset.quotas([97, 2, 1], 10), [8, 1, 1])
    np.testing.assert_array_equal(coreset.quotas([5, 5, 5], 2), [1, 1, 0])
    np.testing.assert_array_equal(coreset.quotas([3, 4], 7), [3, 4])


def test_one_for_each_class():
    factors, label = SMALL
    picked = craig(factors, label, 3, KEY)
    np.testing.assert_array_equal(np.sort(label[np.asarray(picked.index)]), [0, 1, 2])
    assert picked.weight.sum() == 60


def test_identical_points_are_never_picked_twice():
    same = Factors(jnp.ones((20, 1, 3)), jnp.ones((20, 1, 4)))
    for budget in (1, 7, 20):
        picked = craig(same, np.zeros(20), budget, KEY)
        np.testing.assert_array_equal(picked.index, np.arange(budget))
        assert picked.weight.sum() == 20 and picked.facts["gradient_error"] < 1e-6


def test_the_order_of_the_pool_does_not_matter():
    # Two points with nobody else between them have equal gains, hence few picks.
    factors, label = SMALL
    order = np.random.default_rng(0).permutation(60)
    first = answer(craig(factors, label, 9, KEY))
    moved = craig(features.take(factors, order), label[order], 9, KEY)
    assert first == {int(order[i]): w for i, w in answer(moved).items()}


def test_classes_side_by_side_get_the_picks_of_each():
    # As on accelerators; on CPU craig takes one after another.
    factors, label = clustered(70, classes=7, seed=3)
    each = [alike(factors, rows) for rows in coreset.groups_of(label)]
    picks, _ = jax.vmap(lambda s: greedy(s, jnp.ones(10, bool), 5, jnp.int32(5)))(
        jnp.asarray(np.stack(each), jnp.float32)
    )
    assert picks.tolist() == [plain_greedy(s, 5)[0] for s in each]


def test_whole_minibatches_are_picked_by_their_mean():
    factors, label = clustered(43, classes=4, seed=4)
    picked = craig(factors, label, 20, KEY, scope="batch", batch_size=5)
    means = features.minibatches(factors, 5)
    picks, sizes = plain_greedy(alike(means, np.arange(8)), 4)
    expected = {5 * b + i: n for b, n in zip(picks, sizes.tolist()) for i in range(5)}
    assert answer(picked) == expected
    assert picked.weight.sum() == 40


def test_the_pool_as_one_problem():
    factors, label = SMALL
    picked = craig(factors, label, 15, KEY, scope="pool")
    picks, sizes = plain_greedy(alike(factors, np.arange(60)), 15)
    assert answer(picked) == dict(zip(picks, sizes.tolist()))
    assert picked.facts["sampled"] == 0


def test_sampled_greedy_is_close_to_greedy():
    factors, label = clustered(200, classes=4, seed=5)
    s = alike(factors, np.arange(200))
    exact = value(s, plain_greedy(s, 20)[0])
    found = [
        craig(factors, label, 20, KEY, scope="pool", max_bytes=limit)
        for limit in (100_000, 30_000)
    ]
    # Rows are cut into 2 chunks or 4, which changes nothing.
    assert answer(found[0]) == answer(found[1])
    index, weight, facts = found[0]
    assert facts["sampled"] == 1 and (np.diff(index) > 0).all()
    assert value(s, index.tolist()) >= 0.97 * exact
    owner = np.argmax(s[:, index], axis=1)
    np.testing.assert_array_equal(weight, np.bincount(owner, minlength=20))


def test_craig_beats_random_on_clusters():
    factors, label = clustered(300, classes=5, seed=6)
    picked = craig(factors, label, 30, KEY)
    assert picked.facts["gradient_error"] < 0.5 * random_error(factors, 30)


def test_craig_beats_random_on_digits():
    factors, label = digits_gradients()
    picked = craig(factors, label, 60, KEY)
    assert picked.facts["gradient_error"] < random_error(factors, 60)


def test_bad_input_is_the_users_mistake():
    factors, label = SMALL
    with pytest.raises(UserError, match="choose a budget from 1 to 60"):
        craig(factors, label, 61, KEY)
    with pytest.raises(UserError, match="unknown scope of the coreset 'clas'"):
        craig(factors, label, 6, KEY, scope="clas")
    with pytest.raises(UserError, match="not whole batches of 8: try 16"):
        craig(factors, label, 20, KEY, scope="batch", batch_size=8)
