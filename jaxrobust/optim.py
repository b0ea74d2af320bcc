"""Optimisers, schedules, weight averaging and adversarial weight perturbation."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrobust import registry
from jaxrobust.types import PyTree


def cosine(peak: float, total_steps: int, warmup_percent: float, final_ratio: float):
    """Linear warm-up to `peak`, then half a cosine down to `final_ratio * peak`."""
    warmup = round(total_steps * warmup_percent / 100)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else peak,
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=max(total_steps, warmup + 1),
        end_value=final_ratio * peak,
    )


def piecewise(
    peak: float, total_steps: int, drop_percents: tuple[float, ...], drop_ratio: float
):
    """Constant, multiplied by `drop_ratio` at each of `drop_percents` of the run."""
    drops: dict[int, float] = {}
    for percent in drop_percents:
        step = round(total_steps * percent / 100)
        drops[step] = drops.get(step, 1.0) * drop_ratio
    return optax.piecewise_constant_schedule(peak, drops)


def one_cycle(peak: float, total_steps: int, warmup_percent: float):
    """Linear from 0 up to `peak`, then linear down to 0: the fast-training schedule."""
    up = max(round(total_steps * warmup_percent / 100), 1)
    down = max(total_steps - up, 1)
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, up), optax.linear_schedule(peak, 0.0, down)],
        [up],
    )


def constant(peak: float):
    """The same learning rate throughout."""
    return optax.constant_schedule(peak)


SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "piecewise": piecewise,
}


def make_schedule(spec: Mapping[str, Any], learning_rate: float, total_steps: int):
    """The schedule `spec` names, step -> learning rate."""
    return registry.build(
        "schedule", SCHEDULES, spec, peak=learning_rate, total_steps=total_steps
    )


def sgd(
    schedule: optax.Schedule,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_norm_and_bias: bool,
    grad_clip: float,
) -> optax.GradientTransformation:
    """g <- g + weight_decay * w (coupled), momentum, then -learning_rate * g.

    `decay_norm_and_bias` False keeps vectors (BatchNorm scales, biases) out of the
    decay; `grad_clip` > 0 clips the global norm first.
    """
    mask = None if decay_norm_and_bias else _matrices_only
    return optax.chain(
        optax.clip_by_global_norm(grad_clip) if grad_clip else optax.identity(),
        optax.add_decayed_weights(weight_decay, mask),
        optax.sgd(schedule, momentum=momentum or None, nesterov=nesterov),
    )


def adamw(
    schedule: optax.Schedule, weight_decay: float, grad_clip: float
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay on matrices; `grad_clip` as in `sgd`."""
    return optax.chain(
        optax.clip_by_global_norm(grad_clip) if grad_clip else optax.identity(),
        optax.adamw(schedule, weight_decay=weight_decay, mask=_matrices_only),
    )


OPTIMISERS = {"adamw": adamw, "sgd": sgd}


def make_optimiser(
    spec: Mapping[str, Any], total_steps: int
) -> optax.GradientTransformation:
    """`spec` {"name", "learning_rate", "schedule": {...}, ...} as an optax chain."""
    spec = dict(spec)
    schedule = make_schedule(
        spec.pop("schedule"), spec.pop("learning_rate"), total_steps
    )
    return registry.build("optimiser", OPTIMISERS, spec, schedule=schedule)


def update_ema(average: PyTree, current: PyTree, decay: float, step: Array) -> PyTree:
    """a <- d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)).

    The ramp lets early averages forget the initialisation.
    """
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, w: rate * a + (1 - rate) * w, average, current)


def perturb_weights(params: PyTree, gradient: PyTree, gamma: Array | float) -> PyTree:
    """w + gamma ||w|| g / ||g|| for every matrix or kernel w: the worst nearby weights.

    Ref: Wu et al., Adversarial Weight Perturbation, arXiv:2004.05884, eq. 8-10 with one
    ascent step; vectors are left alone, as in the released code.
    """

    def move(w: Array, g: Array) -> Array:
        if w.ndim < 2:
            return w
        ratio = jnp.linalg.norm(w.ravel()) / (jnp.linalg.norm(g.ravel()) + 1e-12)
        return w + gamma * ratio * g

    return jax.tree.map(move, params, gradient)


def _matrices_only(params: PyTree) -> PyTree:
    return jax.tree.map(lambda w: w.ndim > 1, params)
