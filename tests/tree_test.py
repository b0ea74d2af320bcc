"""Trees are counted, checked for NaN, and named by their bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import tree

TREE = {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.ones(4, jnp.int32)}}


def changed(value):
    return {"a": value, "b": TREE["b"]}


def test_count_is_the_number_of_scalars():
    assert tree.count(TREE) == 10
    assert tree.count({}) == 0


def test_norm_is_that_of_all_scalars_as_one_vector():
    expected = np.sqrt(sum(i**2 for i in range(6)) + 4)
    np.testing.assert_allclose(tree.norm(TREE), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_one_bad_number_anywhere_is_seen(bad):
    assert bool(tree.all_finite(TREE))
    assert not bool(tree.all_finite(changed(TREE["a"].at[1, 2].set(bad))))


def test_an_empty_tree_is_finite():
    assert bool(tree.all_finite({}))


def test_digest_is_equal_for_equal_bits_in_any_array_type():
    assert tree.digest(TREE) == tree.digest(jax.tree.map(np.asarray, TREE))


@pytest.mark.parametrize(
    "other",
    (
        changed(TREE["a"].at[0, 0].add(1e-30)),
        changed(-TREE["a"]),
        changed(TREE["a"].reshape(3, 2)),
        changed(jax.lax.bitcast_convert_type(TREE["a"], jnp.int32)),
        {"a": TREE["a"], "d": TREE["b"]},
        {"a": TREE["a"]},
    ),
    ids=("one bit", "sign of zero", "shape", "dtype", "name", "missing leaf"),
)
def test_digest_sees(other):
    assert tree.digest(TREE) != tree.digest(other)
