"""GradMatch against least squares of SciPy, known combinations and random choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from jaxrobust import features
from jaxrobust.errors import UserError
from jaxrobust.features import Factors
from jaxrobust.selection import coreset
from jaxrobust.selection.gradmatch import gradmatch
from tests.features_test import explicit
from tests.selection.craig_test import answer
from tests.selection.gradients import clustered, digits_gradients, random_error

KEY = jax.random.key(0)
SMALL = clustered(60, classes=3, seed=1)
ONE = np.zeros(60)


def damped(factors, ridge):
    """Columns of the least squares problem with its damping below, f64."""
    g = explicit(factors)
    below = np.sqrt(ridge * np.mean(np.sum(g**2, axis=1))) * np.eye(len(g))
    return np.concatenate([g.T, below])


def objective(factors, ridge, weight):
    """||sum w g - b||^2 + lambda ||w||^2 with w for every point."""
    goal = explicit(factors).sum(axis=0)
    goal = np.concatenate([goal, np.zeros(len(factors.delta))])
    return np.sum((damped(factors, ridge) @ weight - goal) ** 2)


def spread(picked, count):
    """f64[count], 0 for points that were not picked."""
    weight = np.zeros(count)
    weight[np.asarray(picked.index)] = picked.weight
    return weight


def best_weights(factors, ridge, support):
    """SciPy's non-negative weights on a support, f64[N]."""
    goal = explicit(factors).sum(axis=0)
    goal = np.concatenate([goal, np.zeros(len(factors.delta))])
    weight = np.zeros(len(factors.delta))
    weight[support] = nnls(damped(factors, ridge)[:, support], goal)[0]
    return weight


@pytest.mark.parametrize("scope", ("class", "pool"))
def test_a_sparse_combination_is_recovered(scope):
    draw = np.random.default_rng(0)
    part = lambda width: jnp.asarray(draw.normal(size=(40, 1, width)), jnp.float32)
    factors = Factors(part(10), part(20))
    weight = np.zeros(40, np.float32)
    weight[[3, 11, 17, 30]] = 2.0, 0.7, 1.0, 3.0
    goals = features.total(jnp.asarray(weight), factors)[None]
    picked = gradmatch(
        factors, np.zeros(40), 4, KEY, scope=scope, ridge=1e-6, goals=goals
    )
    np.testing.assert_allclose(spread(picked, 40), weight, atol=1e-3)
    assert picked.facts["block_error"] < 1e-4 and picked.facts["fills"] == 0


@pytest.mark.parametrize("ridge", (0.1, 1e-2, 1e-3))
@pytest.mark.parametrize("scope", ("class", "pool"))
@pytest.mark.parametrize("budget", (1, 5, 25))
def test_weights_are_the_best_ones_on_the_points_picked(budget, scope, ridge):
    factors = SMALL[0]
    picked = gradmatch(factors, ONE, budget, KEY, scope=scope, ridge=ridge)
    best = best_weights(factors, ridge, np.asarray(picked.index))
    found = objective(factors, ridge, spread(picked, 60))
    assert found <= objective(factors, ridge, best) * (1 + 1e-3)


def test_without_a_limit_it_is_non_negative_least_squares():
    factors, ridge = SMALL[0], 1e-2
    picked = gradmatch(factors, ONE, 60, KEY, ridge=ridge)
    best = objective(factors, ridge, best_weights(factors, ridge, np.arange(60)))
    assert objective(factors, ridge, spread(picked, 60)) <= best * (1 + 1e-3)
    assert picked.facts["out_of_steps"] == 0


def test_the_first_pick_is_the_steepest():
    factors = SMALL[0]
    g = explicit(factors)
    picked = gradmatch(factors, ONE, 1, KEY)
    assert picked.index[0] == np.argmax(g @ g.sum(axis=0))


def test_more_picks_match_better():
    factors, label = SMALL
    found = [gradmatch(factors, label, k, KEY) for k in (6, 12, 24, 48)]
    error = [float(picked.facts["gradient_error"]) for picked in found]
    assert all(b < a for a, b in zip(error, error[1:]))


def test_classes_are_matched_one_by_one():
    factors, label = SMALL
    whole = answer(gradmatch(factors, label, 12, KEY))
    for rows in coreset.groups_of(label):
        part = gradmatch(features.take(factors, rows), ONE[:20], 4, KEY)
        for i, weight in answer(part).items():
            np.testing.assert_allclose(whole[rows[i]], weight, rtol=1e-3)


def test_imbalanced_classes_share_the_budget():
    sizes = (100, 90, 40, 12, 3, 1)
    factors, _ = clustered(sum(sizes), classes=6, seed=2)
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(6), sizes))
    index, weight, facts = gradmatch(factors, label, 50, KEY)
    counts = np.bincount(label[np.asarray(index)])
    np.testing.assert_array_equal(counts, coreset.quotas(sizes, 50))
    assert (np.diff(index) > 0).all() and (weight >= 0).all()
    assert facts["block_error"].shape == (6,)
    assert int(facts["picks"] + facts["fills"]) == 50


def test_one_for_each_class():
    factors, label = SMALL
    picked = gradmatch(factors, label, 3, KEY)
    np.testing.assert_array_equal(np.sort(label[np.asarray(picked.index)]), [0, 1, 2])


def test_identical_points_share_the_weight():
    same = Factors(jnp.ones((20, 1, 3)), jnp.ones((20, 1, 4)))
    picked = gradmatch(same, np.zeros(20), 5, KEY, ridge=1e-3)
    assert len(set(picked.index.tolist())) == 5
    np.testing.assert_allclose(picked.weight.sum(), 20, rtol=1e-2)
    assert picked.facts["gradient_error"] < 1e-2


@pytest.mark.parametrize("fill,weight", (("none", 0.0), ("random", 1.0)))
def test_empty_slots_are_filled_with_points_not_picked(fill, weight):
    # Only the first three points go the way of the goal.
    delta = jnp.asarray(np.eye(4)[[0, 1, 2, 3, 3, 3, 3, 3]], jnp.float32)[:, None]
    factors = Factors(delta, jnp.zeros((8, 1, 2)))
    goals = features.total(jnp.arange(8) < 3, factors)[None]
    index, found, facts = gradmatch(
        factors, np.zeros(8), 6, KEY, goals=goals, fill=fill
    )
    assert len(set(index.tolist())) == 6 and set(index[:3].tolist()) == {0, 1, 2}
    np.testing.assert_allclose(found[:3], 1.0, rtol=0.01)
    np.testing.assert_array_equal(found[3:], weight)
    assert facts["fills"] == 3 and facts["ended_early"] == 1
    other = gradmatch(factors, np.zeros(8), 6, jax.random.key(1), goals=goals)
    assert set(other.index[:3].tolist()) == {0, 1, 2}


def test_the_order_of_the_pool_does_not_matter():
    factors, label = SMALL
    order = np.random.default_rng(0).permutation(60)
    first = answer(gradmatch(factors, label, 12, KEY))
    moved = answer(gradmatch(features.take(factors, order), label[order], 12, KEY))
    assert first.keys() == {int(order[i]) for i in moved}
    for i, weight in moved.items():
        np.testing.assert_allclose(first[int(order[i])], weight, rtol=1e-3)


def test_the_own_row_alone():
    factors, label = SMALL
    own = features.own_row(factors, jnp.asarray(label))
    direct = gradmatch(own, label, 12, KEY)
    picked = gradmatch(factors, jnp.asarray(label), 12, KEY, own_row=True)
    assert answer(picked) == answer(direct)
    assert picked.facts["gradient_error"] > direct.facts["gradient_error"]


def test_whole_minibatches_match_the_whole_pool():
    factors, label = clustered(43, classes=4, seed=4)
    index, weight, facts = gradmatch(
        factors, label, 20, KEY, scope="batch", batch_size=5, ridge=1e-4
    )
    assert (np.asarray(index).reshape(4, 5) % 5 == np.arange(5)).all()
    assert (np.ptp(np.asarray(weight).reshape(4, 5), axis=1) == 0).all()
    error = facts["gradient_error"]
    np.testing.assert_allclose(facts["block_error"][0], error, rtol=0.01)


def test_little_memory_gives_the_same_picks():
    factors, label = clustered(70, classes=7, seed=3)
    first = gradmatch(factors, label, 21, KEY)
    again = gradmatch(factors, label, 21, KEY, max_bytes=3 * 12 * 109)
    np.testing.assert_array_equal(first.index, again.index)
    np.testing.assert_allclose(first.weight, again.weight, rtol=1e-4)


def test_more_picks_than_dimensions_stay_sane():
    factors, label = clustered(120, classes=2, seed=7, depth=3)
    for ridge in (1e-2, 1e-6):
        picked = gradmatch(factors, label, 100, KEY, ridge=ridge)
        assert jnp.isfinite(picked.weight).all()
        assert picked.facts["gradient_error"] < 0.02
        assert int(picked.facts["picks"] + picked.facts["fills"]) == 100


def test_gradmatch_beats_random():
    for factors, label in (clustered(300, 5, seed=6), digits_gradients()):
        picked = gradmatch(factors, label, 60, KEY)
        assert picked.facts["gradient_error"] < 0.5 * random_error(factors, 60)


def test_bad_input_is_the_users_mistake():
    factors, label = SMALL
    with pytest.raises(UserError, match="ridge 0 must be positive"):
        gradmatch(factors, label, 6, KEY, ridge=0)
    with pytest.raises(UserError, match="unknown fill of the coreset 'some'"):
        gradmatch(factors, label, 6, KEY, fill="some")
    with pytest.raises(UserError, match="choose a budget from 1 to 60"):
        gradmatch(factors, label, 0, KEY)
