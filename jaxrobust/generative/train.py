"""The training step of a denoiser: pure, and at home inside `lax.scan`."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrobust import tree
from jaxrobust.generative.diffusion import (
    Prediction,
    denoising_loss,
    drop_labels,
)
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
    prediction: Prediction,
    *,
    ema_decay: float,
    unknown: int,
    label_drop_percent: float,
) -> DenoiseStep:
    """`step(state, batch, base_key) -> (state, metrics)`, metrics a dict of f32[].

    Minimises `sum_i weight_i L_i / sum_i weight_i` of `denoising_loss` and averages the
    weights; a share of the labels becomes `unknown`. The noise is a function of
    (base_key, state.step, row).
    """

    def mean_loss(
        params: PyTree, batch: Batch, keys: Array, dropout_key: Array
    ) -> Array:
        def predict(x_t: Array, t: Array, label: Array) -> Array:
            given: PyTree = {"params": params}
            rngs = {"dropout": dropout_key}
            return model.apply(given, x_t, t, label, train=True, rngs=rngs)  # type: ignore[return-value]

        loss = denoising_loss(
            predict, schedule, prediction, keys, batch.image, batch.label
        )
        return jnp.sum(batch.weight * loss) / jnp.sum(batch.weight)

    def step(
        state: TrainState, batch: Batch, base_key: Array
    ) -> tuple[TrainState, Metrics]:
        streams = step_keys(base_key, state.step)
        row = jnp.arange(batch.label.shape[0])
        keys = per_example(streams.model, row)
        label_key, dropout_key = jax.random.split(streams.augment)
        drawn = per_example(label_key, row)
        label = drop_labels(drawn, batch.label, unknown, label_drop_percent)
        batch = batch._replace(label=label)
        loss, grads = jax.value_and_grad(mean_loss)(
            state.params, batch, keys, dropout_key
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = update_ema(state.ema["params"], params, ema_decay, state.step)
        metrics = {"loss": loss, "grad_norm": tree.norm(grads)}
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema={"params": average, "batch_stats": {}},
        )
        return state, metrics

    return step
