"""The top of a ranking, on the device, with ties broken by position."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust.errors import UserError, unknown_name

ORDERS = ("hard", "easy", "mid", "random")


def take_top(
    score: Array, label: Array, key: Array, budget: int, order: str, balanced: bool
) -> Array:
    """Positions i32[budget], ascending, of the chosen rows of score f32[N], label
    i32[N].

    `order` "hard" takes the largest scores, "easy" the smallest, "mid" those of middle
    rank, "random" ignores them. Equal scores are taken lowest position first
    ("mid" ranks them by position first).
    `balanced` takes the best of every class in turn, so class counts differ by at most
    one until a class runs out. Raises `UserError` for an unknown order or too large a
    budget.
    """
    if order not in ORDERS:
        raise unknown_name("order", order, ORDERS)
    if not 0 < budget <= len(score):
        raise UserError(
            f"cannot keep {budget} of {len(score)} images: choose a budget from 1 to "
            f"{len(score)}"
        )
    return _take_top(score, label, key, budget, order, balanced)


@partial(jax.jit, static_argnames=("budget", "order", "balanced"))
def _take_top(score, label, key, budget, order, balanced):
    preference = _preference(score, key, order)
    if balanced:
        turn = _rank_in_class(preference, label)
        chosen = jnp.lexsort((-preference, turn))[:budget]
    else:
        _, chosen = jax.lax.top_k(preference, budget)
    return jnp.sort(chosen)


def _preference(score: Array, key: Array, order: str) -> Array:
    """Larger is taken first; ranks are integers, exact for any pool size."""
    if order == "hard":
        return score
    if order == "easy":
        return -score
    if order == "random":
        return jax.random.permutation(key, len(score))
    return -jnp.abs(2 * _rank(score) - (len(score) - 1))


def _rank(value: Array) -> Array:
    """Each row's place in the ascending, stable order of `value`."""
    order = jnp.argsort(value, stable=True)
    return jnp.zeros(len(value), jnp.int32).at[order].set(jnp.arange(len(value)))


def _rank_in_class(preference: Array, label: Array) -> Array:
    """0 for the most preferred row of each class, 1 for the next ..."""
    order = jnp.lexsort((-preference, label))
    ordered = label[order]
    start = jnp.searchsorted(ordered, ordered, side="left")
    rank = jnp.arange(len(label)) - start
    return jnp.zeros(len(label), rank.dtype).at[order].set(rank)
