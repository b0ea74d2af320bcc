"""Entropic optimal transport: W1 between two bounds, where exact is too slow."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxrobust.errors import UserError


class Entropic(NamedTuple):
    """`lower` <= W1 <= `upper` (to float32 rounding): the value of a feasible dual and
    the cost of a feasible plan. `regulariser` in the unit of the cost; `num_steps`
    taken; `marginal_error` in [0,2], the l1 distance between the marginals of the
    entropic plan and the masses, before the plan was made feasible."""

    lower: float
    upper: float
    regulariser: float
    num_steps: int
    marginal_error: float


def sinkhorn(
    cost: np.ndarray, regulariser: float, max_steps: int, tolerance: float
) -> Entropic:
    """Transport between uniform masses on n and m points, cost f[n,m] >= 0.

    min_P <P, C> - regulariser H(P) by Sinkhorn's iteration on the logarithms, until the
    marginals are off by `tolerance` or for `max_steps`. The plan is then moved onto the
    marginals, and the potentials are made feasible by a c-transform.

    Ref: Cuturi, arXiv:1306.0895; the rounding of Altschuler et al., arXiv:1705.09634,
    algorithm 2. Raises `UserError` unless the regulariser is positive.
    """
    if not regulariser > 0:
        raise UserError(f"regulariser={regulariser} must be above 0; exact W1 has none")
    cost_ = jnp.asarray(cost, jnp.float32)
    lower, upper, steps, error = _solve(cost_, regulariser, max_steps, tolerance)
    return Entropic(
        float(lower), float(upper), float(regulariser), int(steps), float(error)
    )


@jax.jit
def _solve(cost: Array, regulariser: Array, max_steps: Array, tolerance: Array):
    rows, columns = cost.shape

    def improve(carry):
        f, g, _, step = carry
        f_new = _soft_minimum(cost - g[None, :], regulariser)
        # The rows of the plan of (f, g) sum to exp((f - f_new) / regulariser) / rows.
        error = jnp.mean(jnp.abs(jnp.exp((f - f_new) / regulariser) - 1.0))
        g_new = _soft_minimum((cost - f_new[:, None]).T, regulariser)
        return f_new, g_new, error, step + 1

    def unfinished(carry):
        return (carry[2] > tolerance) & (carry[3] < max_steps)

    # Columns first: rows that are right by accident must not end it.
    start = jnp.zeros(rows), _soft_minimum(cost.T, regulariser), jnp.inf, 0
    f, g, _, steps = lax.while_loop(unfinished, improve, start)
    log_plan = (f[:, None] + g[None, :] - cost) / regulariser
    plan = jnp.exp(log_plan) / (rows * columns)
    error = jnp.sum(jnp.abs(jnp.sum(plan, 1) - 1.0 / rows))
    error += jnp.sum(jnp.abs(jnp.sum(plan, 0) - 1.0 / columns))
    return _dual_value(cost, f), _feasible_cost(cost, plan), steps, error


def _soft_minimum(x: Array, regulariser: Array) -> Array:
    """-regulariser log mean_j exp(-x_ij / regulariser), [n]."""
    largest = jax.nn.logsumexp(-x / regulariser, axis=1)
    return -regulariser * (largest - jnp.log(x.shape[1]))


def _dual_value(cost: Array, f: Array) -> Array:
    """mean f + mean g after c-transforms: f_i + g_j <= C_ij everywhere."""
    g = jnp.min(cost - f[:, None], axis=0)
    f = jnp.min(cost - g[None, :], axis=1)
    return jnp.mean(f) + jnp.mean(g)


def _feasible_cost(cost: Array, plan: Array) -> Array:
    """<P, C> of the plan with too heavy rows and columns scaled down and what is then
    missing added as a product."""
    (rows, columns), tiny = cost.shape, jnp.finfo(cost.dtype).tiny
    shrink = lambda sums, mass: jnp.minimum(1.0, mass / jnp.maximum(sums, tiny))
    plan = plan * shrink(jnp.sum(plan, 1), 1.0 / rows)[:, None]
    plan = plan * shrink(jnp.sum(plan, 0), 1.0 / columns)[None, :]
    missing = jnp.maximum(1.0 / rows - jnp.sum(plan, 1), 0.0)
    wanting = jnp.maximum(1.0 / columns - jnp.sum(plan, 0), 0.0)
    added = jnp.einsum("i,ij,j->", missing, cost, wanting, precision="highest")
    return jnp.sum(plan * cost) + added / jnp.maximum(jnp.sum(wanting), tiny)
