"""GLISTER against a plain greedy in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.selection.glister import Validation, glister
from tests.features_test import explicit
from tests.selection.gradients import clustered, softmax

KEY = jax.random.key(0)
FACTORS, LABEL = clustered(50, classes=3, seed=1)
DRAW = np.random.default_rng(0)
HELD_OUT = Validation(
    *(jnp.asarray(DRAW.normal(size=(30, width)), jnp.float32) for width in (3, 6)),
    jnp.arange(30) % 3,
)


def plain(budget, each, step_size):
    """Positions and the validation loss after the step, in f64."""
    g = explicit(FACTORS)
    logits, e, label = (np.asarray(x, np.float64) for x in HELD_OUT)
    e = np.concatenate([e, np.ones((30, 1))], axis=1)
    one_hot, moved, chosen = np.eye(3)[label.astype(int)], np.zeros(g.shape[1]), []
    now = lambda: softmax(logits - step_size / budget * e @ moved.reshape(3, 7).T)
    while len(chosen) < budget:
        gain = g @ ((now() - one_hot).T @ e).ravel()
        gain[chosen] = -np.inf
        best = np.argsort(-gain, kind="stable")[: min(each, budget - len(chosen))]
        chosen += best.tolist()
        moved = g[chosen].sum(axis=0)
    return sorted(chosen), -np.mean(np.log(np.sum(now() * one_hot, axis=1)))


@pytest.mark.parametrize("budget,rounds", ((1, None), (12, None), (12, 4), (13, 4)))
def test_the_picks_are_those_of_a_plain_greedy(budget, rounds):
    each = -(-budget // (rounds or budget))
    index, loss = plain(budget, each, 0.5)
    picked = glister(FACTORS, LABEL, budget, KEY, HELD_OUT, 0.5, rounds)
    np.testing.assert_array_equal(picked.index, index)
    np.testing.assert_array_equal(picked.weight, 1.0)
    np.testing.assert_allclose(picked.facts["validation_after"], loss, rtol=1e-4)


def test_the_step_helps_and_more_than_a_random_one():
    facts = glister(FACTORS, LABEL, 10, KEY, HELD_OUT, 0.1).facts
    assert facts["validation_after"] < facts["validation_before"]


def test_a_single_round_ignores_the_step():
    first, second = (
        glister(FACTORS, LABEL, 10, KEY, HELD_OUT, step, 1) for step in (0.01, 10.0)
    )
    np.testing.assert_array_equal(first.index, second.index)


def test_the_whole_pool_is_the_whole_pool():
    picked = glister(FACTORS, LABEL, 50, KEY, HELD_OUT)
    np.testing.assert_array_equal(picked.index, np.arange(50))
    assert picked.facts["gradient_error"] < 1e-5


def test_bad_input_is_the_users_mistake():
    with pytest.raises(UserError, match="choose a budget from 1 to 50"):
        glister(FACTORS, LABEL, 51, KEY, HELD_OUT)
    with pytest.raises(UserError, match="choose 1 or more"):
        glister(FACTORS, LABEL, 5, KEY, HELD_OUT, rounds=0)
