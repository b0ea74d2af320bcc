"""Optimisers, schedules, weight averaging and adversarial weight perturbation."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrobust import registry
from jaxrobust.types import PyTree

Schedule = Callable[[Array], Array]
"""step i32[] -> learning rate f32[]."""


def cosine(
    peak: float, total_steps: Array, warmup_percent: float, final_ratio: float
) -> Schedule:
    """Linear warm-up to `peak`, then half a cosine down to `final_ratio * peak`."""
    warmup = jnp.round(total_steps * (warmup_percent / 100))
    end = jnp.maximum(total_steps, warmup + 1)

    def rate(step: Array) -> Array:
        done = jnp.clip((step - warmup) / (end - warmup), 0.0, 1.0)
        down = final_ratio + (1 - final_ratio) * (1 + jnp.cos(jnp.pi * done)) / 2
        return peak * jnp.where(step < warmup, step / jnp.maximum(warmup, 1), down)

    return rate


def piecewise(
    peak: float,
    total_steps: Array,
    drop_percents: tuple[float, ...],
    drop_ratio: float,
) -> Schedule:
    """Constant, multiplied by `drop_ratio` at each of `drop_percents` of the run."""
    drops = jnp.round(total_steps * jnp.asarray(drop_percents) / 100)
    return lambda step: peak * drop_ratio ** jnp.sum(step >= drops)


def one_cycle(peak: float, total_steps: Array, warmup_percent: float) -> Schedule:
    """Linear from 0 up to `peak`, then linear down to 0: the fast-training schedule."""
    up = jnp.maximum(jnp.round(total_steps * (warmup_percent / 100)), 1)
    down = jnp.maximum(total_steps - up, 1)
    left = lambda step: jnp.clip(1 - (step - up) / down, 0.0, 1.0)
    return lambda step: peak * jnp.where(step < up, step / up, left(step))


def constant(peak: float) -> Schedule:
    """The same learning rate throughout."""
    return lambda step: jnp.full((), peak)


SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "piecewise": piecewise,
}


def make_schedule(
    spec: Mapping[str, Any], learning_rate: float, total_steps: Array | int
) -> Schedule:
    """The schedule `spec` names, step -> learning rate f32[]."""
    total = jnp.asarray(total_steps, jnp.float32)
    return registry.build(
        "schedule", SCHEDULES, spec, peak=learning_rate, total_steps=total
    )


class RateState(NamedTuple):
    """Steps taken, and those of the whole run; i32[] both."""

    count: Array
    total_steps: Array


def scale_by_schedule(
    spec: Mapping[str, Any], learning_rate: float, total_steps: int
) -> optax.GradientTransformation:
    """Times minus the learning rate. The length of the run is a part of the state: a
    compiled step serves runs of every length."""
    make_schedule(spec, learning_rate, total_steps)  # a mistake shows here

    def init(params: PyTree) -> PyTree:
        return RateState(jnp.zeros((), jnp.int32), jnp.asarray(total_steps, jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree = None):
        schedule = make_schedule(spec, learning_rate, state.total_steps)
        rate = schedule(state.count)
        moved = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
        return moved, state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)


def sgd(
    rate: optax.GradientTransformation,
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
        optax.trace(momentum, nesterov) if momentum else optax.identity(),
        rate,
    )


def adamw(
    rate: optax.GradientTransformation, weight_decay: float, grad_clip: float
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay on matrices; `grad_clip` as in `sgd`."""
    return optax.chain(
        optax.clip_by_global_norm(grad_clip) if grad_clip else optax.identity(),
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay, _matrices_only),
        rate,
    )


OPTIMISERS = {"adamw": adamw, "sgd": sgd}


def make_optimiser(
    spec: Mapping[str, Any], total_steps: int
) -> optax.GradientTransformation:
    """`spec` {"name", "learning_rate", "schedule": {...}, ...} as an optax chain."""
    spec = dict(spec)
    rate = scale_by_schedule(
        spec.pop("schedule"), spec.pop("learning_rate"), total_steps
    )
    return registry.build("optimiser", OPTIMISERS, spec, rate=rate)


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
