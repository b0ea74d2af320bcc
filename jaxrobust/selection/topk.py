"""The top of a ranking, on the device, with ties broken by position."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust.errors import UserError, unknown_name

ORDERS = ("hard", "easy", "mid", "random")


def padded_size(count: int) -> int:
    """`count` rounded up, by at most an eighth: pools of about one size then share a
    compiled program."""
    step = max(2 ** (count - 1).bit_length() // 16, 1)
    return -(-count // step) * step


def take_top(
    score: Array,
    label: Array,
    key: Array,
    size: int,
    budget: int,
    order: str,
    balanced: bool,
) -> Array:
    """Positions i32[budget], ascending, of the chosen rows of score f32[N], label
    i32[N], of which only the first `size` count.

    `order` "hard" takes the largest scores, "easy" the smallest, "mid" those of middle
    rank, "random" ignores them. Equal scores are taken lowest position first
    ("mid" ranks them by position first).
    `balanced` takes the best of every class in turn, so class counts differ by at most
    one until a class runs out. Raises `UserError` for an unknown order or too large a
    budget.
    """
    check_choice(size, budget, order)
    return _take_top(score, label, key, size, budget, order, balanced)


def check_choice(size: int, budget: int, order: str) -> None:
    """Raises `UserError` for an unknown order or a budget out of reach."""
    if order not in ORDERS:
        raise unknown_name("order", order, ORDERS)
    if not 0 < budget <= size:
        raise UserError(
            f"cannot keep {budget} of {size} images: choose a budget from 1 to {size}"
        )


@partial(jax.jit, static_argnames=("budget", "order", "balanced"))
def _take_top(score, label, key, size, budget, order, balanced):
    real = jnp.arange(len(score)) < size
    preference = _preference(score, key, order, real)
    if balanced:
        turn = _rank_in_class(preference, label)
        turn = jnp.where(real, turn, len(turn))
        chosen = jnp.lexsort((-preference, turn))[:budget]
    else:
        _, chosen = jax.lax.top_k(preference, budget)
    return jnp.sort(chosen)


def _preference(score: Array, key: Array, order: str, real: Array) -> Array:
    """Larger is taken first, rows that are not real last; ranks are integers, exact
    for any pool size."""
    # top_k would take 0.0 before -0.0.
    score = jnp.where(score == 0, 0.0, score)
    if order in ("hard", "easy"):
        return jnp.where(real, score if order == "hard" else -score, -jnp.inf)
    if order == "random":
        preference = jax.random.permutation(key, len(score))
    else:
        rank = _rank(jnp.where(real, score, jnp.inf))
        preference = -jnp.abs(2 * rank - (jnp.sum(real) - 1))
    # Not the least integer: that has no negative.
    return jnp.where(real, preference, -jnp.iinfo(preference.dtype).max)


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
