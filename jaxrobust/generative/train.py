"""The training step of a denoiser: pure, and at home inside `lax.scan`."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrobust.generative.diffusion import denoising_loss
from jaxrobust.generative.schedule import Schedule
from jaxrobust.optim import update_ema
from jaxrobust.rng import per_example, step_keys
from jaxrobust.types import Batch, PyTree, TrainState

Metrics = dict[str, Array]
DenoiseStep = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: Array,
    shape: tuple[int, ...],
) -> TrainState:
    """A fresh state for images of `shape` (H,W,C), averaged weights included."""
    one = (jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    params = jax.jit(model.init)(key, *one)["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={},
        opt_state=jax.jit(tx.init)(params),
        # A copy: a donated state must not hold one buffer twice.
        ema={"params": jax.tree.map(jnp.copy, params), "batch_stats": {}},
        select_state={},
    )


def make_denoise_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    *,
    prediction: str,
    ema_decay: float,
) -> DenoiseStep:
    """`step(state, batch, base_key) -> (state, metrics)`, metrics a dict of f32[].

    Minimises `sum_i weight_i L_i / sum_i weight_i` of `denoising_loss` and averages the
    weights. The noise is a function of (base_key, state.step, row).
    """

    def mean_loss(params: PyTree, batch: Batch, keys: Array) -> Array:
        def predict(x_t: Array, t: Array, label: Array) -> Array:
            return model.apply({"params": params}, x_t, t, label)  # type: ignore[return-value]

        loss = denoising_loss(
            predict, schedule, keys, batch.image, batch.label, prediction=prediction
        )
        return jnp.sum(batch.weight * loss) / jnp.sum(batch.weight)

    def step(
        state: TrainState, batch: Batch, base_key: Array
    ) -> tuple[TrainState, Metrics]:
        key = step_keys(base_key, state.step).model
        keys = per_example(key, jnp.arange(batch.label.shape[0]))
        loss, grads = jax.value_and_grad(mean_loss)(state.params, batch, keys)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = update_ema(state.ema["params"], params, ema_decay, state.step)
        metrics = {"loss": loss, "grad_norm": _length(grads)}
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema={"params": average, "batch_stats": {}},
        )
        return state, metrics

    return step


def _length(grads: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
