"""How an example was learned: one number for each, from its history in training.

A tracker sees the logits of every batch as training goes by, clean or attacked ones as
the caller decides, and keeps a few numbers for each image of the pool.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxrobust import losses, metrics

State = Any


class Tracker(NamedTuple):
    """Pure functions over a history; `update` and `score` run under jit.

    `init(size)` is the state of `size` images never seen. `update(state, index, logits,
    label)` adds index i32[B] (no position twice in one call; `size` and above are
    ignored, which is how a batch is padded), logits f32[B,K], label i32[B].
    `score(state)` is f32[size], finite where the logits were. `larger` says what a
    large one means, "hard" or "easy". One call or many make an epoch, in any order.
    """

    init: Callable[[int], State]
    update: Callable[[State, Array, Array, Array], State]
    score: Callable[[State], Array]
    larger: str


class Forgetting(NamedTuple):
    """`right` bool[N], at the last look; `learned` bool[N], ever right; `count` i32[N],
    times it went from right to wrong."""

    right: Array
    learned: Array
    count: Array


class Mean(NamedTuple):
    """`total` f32[N], a sum over looks; `looks` i32[N], how many there were."""

    total: Array
    looks: Array


def forgetting() -> Tracker:
    """How often an image went from right to wrong between one look and the next.

    Images never right, unseen ones among them, stand one above the most forgotten:
    max_j count_j + 1.

    Ref: Toneva et al., An Empirical Study of Example Forgetting, arXiv:1812.05159,
    section 3. Deviates: there an image never learned counts as infinitely forgotten;
    the finite number ranks it the same.
    """

    def init(size: int) -> Forgetting:
        none = jnp.zeros(size, bool)
        return Forgetting(none, none, jnp.zeros(size, jnp.int32))

    def update(state: Forgetting, index: Array, logits: Array, label: Array):
        right = metrics.correct(logits, label) > 0
        before = state.right.at[index].get(mode="fill", fill_value=False)
        lost = (before & ~right).astype(jnp.int32)
        return Forgetting(
            state.right.at[index].set(right, mode="drop"),
            state.learned.at[index].max(right, mode="drop"),
            state.count.at[index].add(lost, mode="drop"),
        )

    def score(state: Forgetting) -> Array:
        never = jnp.max(state.count) + 1
        return jnp.where(state.learned, state.count, never).astype(jnp.float32)

    return Tracker(init, update, score, "hard")


def aum() -> Tracker:
    """The area under the margin: the mean over looks of z_y - max_{k != y} z_k.

    Small, even negative, where a label is doubtful; 0, a tie, for unseen images.

    Ref: Pleiss et al., Identifying Mislabeled Data using the Area Under the Margin
    Ranking, arXiv:2001.10528.
    """
    return _mean_of(lambda logits, label: -losses.margin(logits, label))


def stability() -> Tracker:
    """The share of looks at which an image was read right, in [0,1].

    On attacked images this is the learning stability of adversarial training; its
    images of low quality are those of small values. 0 for unseen images.

    Ref: Dong, Liu and Shang, Data Quality Matters For Adversarial Training,
    arXiv:2102.07437. Deviates: their code counts the epochs at which the attacked image
    was misread; this is one minus that count over the number of epochs.
    """
    return _mean_of(metrics.correct)


TRACKERS: dict[str, Callable[[], Tracker]] = {
    "aum": aum,
    "forgetting": forgetting,
    "stability": stability,
}
"""Scores of a training history, by name."""


def _mean_of(value: Callable[[Array, Array], Array]) -> Tracker:
    """The mean over looks of value(logits, label) f32[B], 0 before the first look;
    larger is easier."""

    def init(size: int) -> Mean:
        return Mean(jnp.zeros(size), jnp.zeros(size, jnp.int32))

    def update(state: Mean, index: Array, logits: Array, label: Array) -> Mean:
        return Mean(
            state.total.at[index].add(value(logits, label), mode="drop"),
            state.looks.at[index].add(1, mode="drop"),
        )

    def score(state: Mean) -> Array:
        return state.total / jnp.maximum(state.looks, 1)

    return Tracker(init, update, score, "easy")
