"""Reductions: the step and the evaluators average here and nowhere else."""

import math

import jax.numpy as jnp
from jax import Array
from scipy import stats

CLAIM_SEEDS = 3
"""Fewer seeds support no claim of a difference."""


def weighted_mean(values: Array, weight: Array) -> Array:
    """sum_i w_i v_i / sum_i w_i, f32[]; 0 where all weights are 0."""
    total = jnp.sum(weight)
    return jnp.sum(values * weight) / jnp.where(total > 0, total, 1.0)


def importance_mean(values: Array, weight: Array) -> Array:
    """sum_i w_i v_i / B, f32[]: an unbiased mean over a pool whose weights have mean
    1, as a batch of large weights counts for more than one of small ones."""
    return jnp.sum(values * weight) / len(values)


MEANS = {"batch": weighted_mean, "global": importance_mean}
"""What `train.weight_norm` may name: weights that count within their batch, or
everywhere."""


def correct(logits: Array, label: Array) -> Array:
    """1.0 where the largest logit is the label's, f32[B]; 0.0 where a logit is NaN.

    argmax alone would point at the first NaN and call a broken network right.
    """
    broken = jnp.any(jnp.isnan(logits), axis=-1)
    return ((jnp.argmax(logits, axis=-1) == label) & ~broken).astype(jnp.float32)


def mean_and_std(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds; the latter 0 for one seed."""
    count = len(values)
    mean = sum(values) / count
    if count == 1:
        return mean, 0.0
    return mean, (sum((v - mean) ** 2 for v in values) / (count - 1)) ** 0.5


def half_interval(values: list[float]) -> float:
    """Half of the 95% interval of the mean over seeds, two or more: Student's t, 4.3
    standard errors for three seeds."""
    error = mean_and_std(values)[1] / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * error
