"""Last-layer gradients of examples as factors, never as N x K(D+1) numbers.

A loss of the logits z = W e + b has the gradient delta (e, 1)^T by (W, b), with delta
= d loss / dz, so inner products of gradients are products of small inner products. By
Danskin's theorem the gradient of the worst case is that at the attacked image, held
fixed. Nothing here is differentiated through.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust.types import FeaturesFn

_EXACT = jax.lax.Precision.HIGHEST


class Factors(NamedTuple):
    """Gradients of N points: sum over branches a of delta_a (e_a, 1)^T.

    `delta` f32[N,A,K]; `embedding` f32[N,A,D]. Branches are the forward passes that a
    loss takes (1 for cross-entropy, 2 for TRADES), times the members of a point that is
    a minibatch.
    """

    delta: Array
    embedding: Array


def cross_entropy_factors(features_fn: FeaturesFn, x: Array, target: Array) -> Factors:
    """One branch of CE(f(x), target): delta = softmax(z) - target.

    x f32[B,H,W,C] is the attacked image of an adversarial objective; target i32[B] or
    a distribution f32[B,K].
    """
    logits, embedding = features_fn(x)
    delta = jax.nn.softmax(logits) - _distribution(target, logits)
    return _branches((delta, embedding))


def trades_factors(
    features_fn: FeaturesFn, image: Array, x_adv: Array, target: Array, beta: float
) -> Factors:
    """Two branches of CE(f(x), y) + beta KL(p || q), p = softmax f(x), q at x_adv.

    delta = (p - y) + beta p (log p - log q - KL) at the clean image and beta (q - p) at
    the attacked one. Shapes as in `cross_entropy_factors`.

    Ref: Zhang et al., arXiv:1901.08573, eq. 5. Deviates: the released code of ACS
    weighs the divergence by beta twice in its selection.
    """
    clean, embedding = features_fn(image)
    adv, adv_embedding = features_fn(x_adv)
    log_p, log_q = jax.nn.log_softmax(clean), jax.nn.log_softmax(adv)
    p, ratio = jnp.exp(log_p), log_p - log_q
    divergence = jnp.sum(p * ratio, axis=-1, keepdims=True)
    delta = p - _distribution(target, clean) + beta * p * (ratio - divergence)
    return _branches((delta, embedding), (beta * (jnp.exp(log_q) - p), adv_embedding))


def take(factors: Factors, index: Array) -> Factors:
    """The points at `index` i32[M]."""
    return Factors(factors.delta[index], factors.embedding[index])


def minibatches(factors: Factors, size: int) -> Factors:
    """Mean gradients of the N // size whole runs of `size` points: more branches."""
    count = len(factors.delta) // size

    def fold(x: Array) -> Array:
        return jnp.reshape(x[: count * size], (count, -1, x.shape[-1]))

    return Factors(fold(factors.delta) / size, fold(factors.embedding))


def own_row(factors: Factors, label: Array) -> Factors:
    """The gradient by the weights and the bias of each point's own class alone.

    delta f32[N,A,1]: (p_y - 1) (e, 1) for cross-entropy; label i32[N].
    """
    own = jnp.take_along_axis(factors.delta, label[:, None, None], axis=2)
    return Factors(own, factors.embedding)


def gram(a: Factors, b: Factors) -> Array:
    """Inner products f32[n,m] of the gradients of n and of m points.

    Sums (delta_i . delta_j)(1 + e_i . e_j) over pairs of branches, or, where there are
    too many of those, the products of one row of the K x (D+1) gradient after another.
    """
    (n, branches, width), (m, others, _) = a.delta.shape, b.delta.shape
    depth = a.embedding.shape[-1]
    by_pairs = branches * others * n * m * (width + depth)
    by_rows = width * depth * (branches * n + others * m + n * m)
    return _gram_by_pairs(a, b) if by_pairs <= by_rows else _gram_by_rows(a, b)


def squared_norms(factors: Factors) -> Array:
    """||g_i||^2, f32[N]."""
    product = lambda x: jnp.einsum("nak,nbk->nab", x, x, precision=_EXACT)
    return jnp.sum(
        product(factors.delta) * (1.0 + product(factors.embedding)), axis=(1, 2)
    )


def total(weight: Array, factors: Factors) -> Array:
    """sum_i w_i g_i as one matrix f32[K,D+1], the bias in its last column; w f32[N]."""
    delta = factors.delta * weight[:, None, None]
    matrix = jnp.einsum("nak,nad->kd", delta, factors.embedding, precision=_EXACT)
    bias = jnp.sum(delta, axis=(0, 1))
    return jnp.concatenate([matrix, bias[:, None]], axis=1)


def inner(factors: Factors, matrix: Array) -> Array:
    """<g_i, V> f32[N] with one gradient V f32[K,D+1] such as a `total`."""
    seen = jnp.einsum(
        "nad,kd->nak", factors.embedding, matrix[:, :-1], precision=_EXACT
    )
    return jnp.sum(factors.delta * (seen + matrix[None, None, :, -1]), axis=(1, 2))


def relative_error(factors: Factors, index: Array, weight: Array) -> Array:
    """||sum_j w_j g_j - sum_i g_i|| / ||sum_i g_i||, f32[], of points `index` i32[M].

    Ref: Dolatabadi et al., Adversarial Coreset Selection, arXiv:2209.05785: the bound
    of their convergence theorem grows with this error.
    """
    goal = total(jnp.ones(len(factors.delta)), factors)
    return distance(total(weight, take(factors, index)), goal)


def distance(sum_: Array, goal: Array) -> Array:
    """||sum - goal|| / ||goal||, f32[], of two gradients f32[K,D+1]; 0 for 0 / 0."""
    floor = jnp.finfo(goal.dtype).tiny
    return jnp.linalg.norm(sum_ - goal) / jnp.maximum(jnp.linalg.norm(goal), floor)


def _branches(*pairs: tuple[Array, Array]) -> Factors:
    delta, embedding = (jnp.stack(side, axis=1) for side in zip(*pairs))
    return jax.lax.stop_gradient(Factors(delta, embedding))


def _distribution(target: Array, logits: Array) -> Array:
    return jax.nn.one_hot(target, logits.shape[-1]) if target.ndim == 1 else target


def _gram_by_pairs(a: Factors, b: Factors) -> Array:
    product = lambda x, y: jnp.einsum("iak,jbk->abij", x, y, precision=_EXACT)
    delta, embedding = product(a.delta, b.delta), product(a.embedding, b.embedding)
    return jnp.sum(delta * (1.0 + embedding), axis=(0, 1))


def _gram_by_rows(a: Factors, b: Factors) -> Array:
    def row(delta: Array, embedding: Array) -> tuple[Array, Array]:
        weights = jnp.einsum("na,nad->nd", delta, embedding, precision=_EXACT)
        return weights, jnp.sum(delta, axis=1)

    def add(sums: Array, deltas: tuple[Array, Array]) -> tuple[Array, None]:
        (x, x0), (y, y0) = row(deltas[0], a.embedding), row(deltas[1], b.embedding)
        products = jnp.matmul(x, y.T, precision=_EXACT) + jnp.outer(x0, y0)
        return sums + products, None

    rows = (jnp.moveaxis(a.delta, -1, 0), jnp.moveaxis(b.delta, -1, 0))
    start = jnp.zeros((len(a.delta), len(b.delta)), a.delta.dtype)
    return jax.lax.scan(add, start, rows)[0]
