"""How much the loss bends around each image of a set: the top eigenvalue of its Hessian
with respect to the image, and the finite difference that GUARD penalises.

All of it per image, keyed by image index: values do not change with the batch size,
order or neighbours, given a network whose rows are independent (BatchNorm on running
statistics).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import rng, sharding
from jaxrobust.attacks.gradient import image_gradient
from jaxrobust.evaluators.passes import load_batch, over_batches
from jaxrobust.loader import Feed
from jaxrobust.objectives.curvature import curvature_term
from jaxrobust.types import LogitsFn, LossFn

_TINY = 1e-30


class Curvature(NamedTuple):
    """Of N images: `hessian_top` f32[N], the largest eigenvalue of d^2 l / dx^2, and
    `difference` f32[N], ||grad l(x + h z) - grad l(x)|| / h along z = g / ||g||; both
    in loss per squared pixel, the second never above the largest |eigenvalue| where the
    loss is quadratic."""

    hessian_top: np.ndarray
    difference: np.ndarray

    def summary(self) -> dict[str, float]:
        """Mean and standard deviation over the images, under the names of a row."""
        found = {"hessian_top": self.hessian_top, "curvature": self.difference}
        return {
            name + ending: float(reduce(value))
            for name, value in found.items()
            for ending, reduce in (("", np.mean), ("_std", np.std))
        }


class CurvaturePass:
    """`(logits_fn, feed, index, key, curv_h) -> Curvature`, compiled once for all
    networks of an architecture and all h.

    `loss` is what bends; `num_steps` as in `top_eigenvalue`; the last batch is padded
    and the padding left out.
    """

    def __init__(self, loss: LossFn, num_steps: int, batch_size: int, mesh: Mesh):
        self.batch_size = batch_size
        self._batch = jax.jit(partial(_measure, loss, num_steps, mesh))

    def __call__(
        self,
        logits_fn: LogitsFn,
        feed: Feed,
        index: np.ndarray,
        key: Array,
        curv_h: float,
    ) -> Curvature:
        """Measure every image of `feed` at positions `index`; `curv_h` is an l2 length
        in [0,1] pixels."""
        program = partial(self._batch, curv_h)
        return Curvature(
            *over_batches(program, logits_fn, feed, index, key, self.batch_size)
        )


def hessian_top(
    logits_fn: LogitsFn,
    loss: LossFn,
    image: Array,
    target: Array,
    keys: Array,
    num_steps: int,
) -> Array:
    """The largest eigenvalue f32[B] of the Hessian of l = loss(f(x), y) at every image
    f32[B,H,W,C], from starts drawn by `keys` [B].

    The pass through grad l is taken apart once: a step of the iteration is then one
    product with the Hessian, about two forward passes. In reverse mode twice, because
    convolutions with gradients of their own (models/conv.py) have no forward mode.
    """
    gradient = image_gradient(logits_fn, loss, target)
    _, pull_back = jax.vjp(lambda x: gradient(x)[0], image)
    draw = lambda key: jax.random.normal(key, image.shape[1:])
    start, second = (jax.vmap(draw)(half) for half in rng.split_rows(keys))
    # The Hessian is symmetric: a product from the left is one from the right.
    return top_eigenvalue(lambda v: pull_back(v)[0], start, second, num_steps)


def top_eigenvalue(
    product: Callable[[Array], Array], start: Array, second: Array, num_steps: int
) -> Array:
    """The largest eigenvalue f32[B] of B symmetric H, by 2 `num_steps` power steps.

    `product` maps v [B,...] to H v row by row; `start`, `second` [B,...] are random.
    The first steps find the largest size rho of an eigenvalue. Where v^T H v has come
    to it, up to 1%, that eigenvalue is positive and the iteration goes on; elsewhere a
    negative one is as large, and the next steps take H + rho I, from `second`. The
    answer is a Rayleigh quotient: at most the true value, and off by the square of the
    vector's error. 0 where H is 0.
    """
    rows = lambda x: jnp.reshape(x, (-1,) + (1,) * (start.ndim - 1))
    dot = lambda a, b: jnp.sum(a * b, axis=tuple(range(1, a.ndim)))
    largest = lambda v: jnp.max(jnp.abs(v), axis=tuple(range(1, v.ndim)))
    length = lambda v: jnp.sqrt(dot(v, v))

    def unit(v: Array) -> Array:
        # The largest entry first: squares of a small product underflow.
        for size in (largest, length):
            v = v / rows(jnp.maximum(size(v), _TINY))
        return v

    def iterate(v: Array, shift: Array) -> tuple[Array, Array]:
        step = lambda v, _: (unit(product(v) + rows(shift) * v), None)
        v, _ = jax.lax.scan(step, unit(v), length=num_steps)
        return v, product(v)

    v, image = iterate(start, jnp.zeros(len(start)))
    rho = length(image)
    positive = dot(v, image) >= 0.99 * rho
    v, image = iterate(jnp.where(rows(positive), v, second), rho * ~positive)
    return dot(v, image)


def _measure(loss, num_steps, mesh, curv_h, logits_fn, *batch):
    keys, image, label = load_batch(mesh, *batch)
    top = hessian_top(logits_fn, loss, image, label, keys, num_steps)
    bent = curvature_term(logits_fn, loss, image, label, curv_h, "norm", "gradient")
    return sharding.constrain_replicated((top, bent / curv_h), mesh)
