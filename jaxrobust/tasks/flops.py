"""Arithmetic of a forward pass, by XLA's count of plain operations; nothing is run."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrobust.state import bind, init_variables
from jaxrobust.tasks.setup import Setup

COUNT = 8
"""Images of the pass that is counted."""


def classifier_flops(setup: Setup) -> float:
    """Floating point operations of the classifier for one image."""
    plain = dataclasses.replace(setup.model.layers, conv="xla")
    model, shape = setup.model.clone(layers=plain), setup.splits.image_shape
    init = lambda key: init_variables(model, shape, key)
    variables = jax.eval_shape(init, jax.random.key(0))
    run = lambda variables, x: bind(model, variables, "running")(x)
    return _counted(run, variables, _images(setup))


def denoiser_flops(setup: Setup, denoiser: nn.Module) -> float:
    """Floating point operations of the generator's network for one image."""
    images = _images(setup)
    times = jax.ShapeDtypeStruct((COUNT,), jnp.float32)
    label = jax.ShapeDtypeStruct((COUNT,), jnp.int32)
    variables = jax.eval_shape(denoiser.init, jax.random.key(0), images, times, label)
    return _counted(denoiser.apply, variables, images, times, label)


def _images(setup: Setup) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((COUNT, *setup.splits.image_shape), jnp.float32)


def _counted(run: Callable, *shapes) -> float:
    cost = jax.jit(run).lower(*shapes).cost_analysis() or {}
    return cost.get("flops", 0.0) / COUNT
