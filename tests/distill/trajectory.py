"""A small matching problem in float64, where a gradient has 10 digits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxrobust.distill.trajectory import Segment, flat_network
from tests.helpers import CLASSES, SHAPE, TinyNet, random_images, variables_of

SIZE = 7
KEY = jax.random.key(11)


class Problem(NamedTuple):
    """The arguments of a match."""

    segment: Segment
    image: Array
    target: Array
    rate: Array
    key: Array


def network():
    """A hidden layer of tanh, as a function of one vector."""
    return flat_network(TinyNet(), SHAPE)


def problem(rate=0.3, soft=False):
    """Seven images, an expert that went a good way; make it inside of enable_x64."""
    start = np.asarray(ravel_pytree(variables_of(TinyNet())["params"])[0], np.float64)
    goal = start + np.random.default_rng(1).normal(size=start.shape) * 0.1
    label = np.arange(SIZE) % CLASSES
    soft_label = np.random.default_rng(2).dirichlet(np.ones(CLASSES), SIZE)
    return Problem(
        Segment(jnp.asarray(start), jnp.asarray(goal)),
        jnp.asarray(random_images(SIZE, 3).astype(np.float64)),
        jnp.asarray(soft_label if soft else label),
        jnp.asarray(rate),
        KEY,
    )


def brighten(key, image):
    """An augmentation with a factor for each row: who mixes keys up is found out."""
    factor = jax.random.uniform(key, (len(image),), image.dtype, 0.5, 1.5)
    return image * factor[:, None, None, None]


def cross_entropy(params, image, target):
    """Mean over the rows, written out."""
    logits = network()(params, image)
    log_p = logits - jnp.log(jnp.sum(jnp.exp(logits), axis=1, keepdims=True))
    share = jax.nn.one_hot(target, CLASSES) if target.ndim == 1 else target
    return -jnp.mean(jnp.sum(share * log_p, axis=1))


def slope_of(batches, i, params, image, target):
    """The parameter gradient of step i."""
    row = batches.rows[i]
    seen = brighten(batches.keys[i], image[row])
    return jax.grad(cross_entropy)(params, seen, target[row])


def relative(end, segment):
    """||end - goal||^2 / ||start - goal||^2."""
    gap, way = end - segment.goal, segment.start - segment.goal
    return jnp.dot(gap, gap) / jnp.dot(way, way)


def temporary_bytes(function, *arguments):
    """What a compiled function needs beside its arguments and results."""
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes
