"""GLISTER: the points whose training step lowers the loss of held-out images most."""

from functools import partial
from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust import features, losses
from jaxrobust.errors import UserError
from jaxrobust.features import Factors
from jaxrobust.selection import coreset
from jaxrobust.selection.coreset import Picked


class Validation(NamedTuple):
    """Held-out images as the network sees them (attacked, for a robust one): `logits`
    f32[M,K], `embedding` f32[M,D], `label` i32[M]."""

    logits: Array
    embedding: Array
    label: Array


def glister(
    factors: Factors,
    label: Array,
    budget: int,
    key: Array,
    validation: Validation,
    step_size: float = 1.0,
    rounds: int | None = None,
) -> Picked:
    """Greedy by first-order gain in validation loss; every weight is 1.

    With G the sum of the gradients picked so far, the validation logits are z - eta /
    budget G (e, 1), eta = `step_size`, exactly; the gain of a point is <g_i, g_val>
    with the gradient g_val of the mean validation loss at those logits. They are
    brought up to date in each of `rounds` rounds (default: after every pick), which
    take budget / rounds points each; ties go to the lowest position. label and key are
    not used. Beyond the common facts: `validation_before`, `validation_after`, the loss
    without and with the step. Raises `UserError` for a budget out of reach or rounds
    below 1.

    Ref: Killamsetty et al., arXiv:2012.10630, algorithm 1 and its Taylor greedy.
    Deviates: the step is by the mean gradient of the picks, so that `step_size` does
    not depend on the budget.
    """
    coreset.check_budget(budget, len(factors.delta))
    if rounds is not None and rounds < 1:
        raise UserError(f"{rounds} rounds of GLISTER: choose 1 or more")
    each = ceil(budget / min(rounds or budget, budget))
    picked = _greedy(factors, Validation(*validation), budget, each, step_size)
    return coreset.finish(picked, factors)


@partial(jax.jit, static_argnums=(2, 3))
def _greedy(factors, validation, budget, each, step_size) -> Picked:
    rate = step_size / budget

    def logits(moved: Array) -> Array:
        moves = validation.embedding @ moved[:, :-1].T + moved[None, :, -1]
        return validation.logits - rate * moves

    def loss(moved: Array) -> Array:
        return jnp.mean(losses.cross_entropy(logits(moved), validation.label))

    def pick(state: tuple[Array, Array], count: int):
        moved, gone = state
        # d loss / d moved is -rate times the gradient at the moved weights.
        gain = features.inner(factors, -jax.grad(loss)(moved))
        _, best = jax.lax.top_k(jnp.where(gone, -jnp.inf, gain), count)
        moved = moved + features.total(jnp.ones(count), features.take(factors, best))
        return (moved, gone.at[best].set(True)), best

    width = factors.delta.shape[-1]
    still = jnp.zeros((width, factors.embedding.shape[-1] + 1))
    state = (still, jnp.zeros(len(factors.delta), bool))
    full, rest = divmod(budget, each)
    state, best = jax.lax.scan(lambda s, _: pick(s, each), state, length=full)
    index = best.ravel()
    if rest:
        state, last = pick(state, rest)
        index = jnp.concatenate([index, last])
    index, weight = jnp.sort(index), jnp.ones(budget)
    facts = {
        "picks": jnp.int32(budget),
        "block_error": features.relative_error(factors, index, weight)[None],
        "validation_before": loss(still),
        "validation_after": loss(state[0]),
    }
    return Picked(index, weight, facts)
