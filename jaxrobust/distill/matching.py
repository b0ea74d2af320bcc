"""How far the gradient that synthetic images give is from the one that real ones give.

All distances map two trees of parameter gradients, the synthetic one first, to f32[],
and are differentiable in the first also where it is zero.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust.types import PyTree

Distance = Callable[[PyTree, PyTree], Array]
"""(synthetic gradient, real gradient) -> f32[]."""

_FLOOR = 1e-6


def layerwise(synthetic: PyTree, real: PyTree) -> Array:
    """sum over layers and output units o of 1 - <s_o, r_o> / (|s_o| |r_o| + 1e-6).

    s_o and r_o are all weights into unit o: kernels are [..., O]. Vectors (biases,
    scales and shifts of norms) do not count. From 0 to 2 for each unit; a unit without
    a gradient counts 1.

    Ref: Zhao et al., Dataset Condensation with Gradient Matching, arXiv:2006.05929,
    eq. 9-10.
    """
    pairs = zip(jax.tree.leaves(synthetic), jax.tree.leaves(real), strict=True)
    parts = [_by_unit(s, r) for s, r in pairs if s.ndim > 1]
    return sum(parts, jnp.zeros(()))


def squared(synthetic: PyTree, real: PyTree) -> Array:
    """||s - r||^2 over all parameters, vectors too."""
    gaps = jax.tree.map(lambda s, r: jnp.sum(jnp.square(s - r)), synthetic, real)
    return sum(jax.tree.leaves(gaps), jnp.zeros(()))


def cosine(synthetic: PyTree, real: PyTree) -> Array:
    """1 - <s, r> / (|s| |r| + 1e-6) with all parameters as one vector each."""
    flat = lambda tree: jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)])
    return _by_unit(flat(synthetic)[:, None], flat(real)[:, None])


DISTANCES: dict[str, Distance] = {
    "cosine": cosine,
    "layerwise": layerwise,
    "squared": squared,
}


def _by_unit(s: Array, r: Array) -> Array:
    s, r = (jnp.reshape(x, (-1, x.shape[-1])) for x in (s, r))
    norms = _column_norms(s) * _column_norms(r)
    return jnp.sum(1 - jnp.sum(s * r, axis=0) / (norms + _FLOOR))


def _column_norms(x: Array) -> Array:
    """Column norms whose gradient is zero, not NaN, at a zero column: dead units of a
    ReLU net have no gradient at all."""
    square = jnp.sum(jnp.square(x), axis=0)
    alive = square > 0
    return jnp.where(alive, jnp.sqrt(jnp.where(alive, square, 1.0)), 0.0)
