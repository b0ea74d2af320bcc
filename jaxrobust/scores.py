"""How much an example matters: one number for each, from one pass of one network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust import losses
from jaxrobust.attacks.gradient import image_gradient
from jaxrobust.errors import unknown_name
from jaxrobust.types import FeaturesFn, LogitsFn


class Prediction(NamedTuple):
    """What a network says of images: `logits`, `adv_logits` f32[B,K]; `label`
    i32[B]."""

    logits: Array
    adv_logits: Array
    label: Array


Score = Callable[[Prediction], Array]
"""Prediction -> f32[B]; larger means harder."""


class Attacked(NamedTuple):
    """What a network is shown: `image`, `x_adv` f32[B,H,W,C]; `label` i32[B]."""

    image: Array
    x_adv: Array
    label: Array


class NetworkScore(NamedTuple):
    """A score that logits alone do not tell: `of(logits_fn, attacked)` -> f32[B].

    Larger means harder; every row is independent of its neighbours.
    """

    of: Callable[[LogitsFn, Attacked], Array]


class FeatureScore(NamedTuple):
    """A score of the last layer's input: `of(features_fn, attacked)` -> f32[B], as
    above."""

    of: Callable[[FeaturesFn, Attacked], Array]


INPUTS = ("clean", "adversarial")
"""What a score with the option `on` looks at."""

_OUTPUTS = {"softmax": jax.nn.softmax, "logits": lambda z: z}


def w_nat(output: str) -> Score:
    """W_nat = sigmoid(||f(x) - onehot(y)||_2): the surrogate of the natural risk.

    With softmax outputs the distance is in [0, sqrt 2], so W_nat in [0.5, 0.805].

    Ref: Dong et al., Towards Adversarially Robust Data-Efficient Learning with
    Generated Data, eq. 3. The paper does not say whether f is softmax or logits:
    `output` does.
    """
    f = _output(output)

    def one(logits: Array, label: Array) -> Array:
        miss = f(logits) - jax.nn.one_hot(label, logits.shape[-1])
        return jax.nn.sigmoid(jnp.linalg.norm(miss))

    return lambda seen: jax.vmap(one)(seen.logits, seen.label)


def w_bdy(output: str) -> Score:
    """W_bdy = sigmoid(||f(x) - f(x_adv)||_2): the surrogate of the boundary risk.

    Ref: as `w_nat`, eq. 3.
    """
    f = _output(output)

    def one(logits: Array, adv_logits: Array) -> Array:
        return jax.nn.sigmoid(jnp.linalg.norm(f(logits) - f(adv_logits)))

    return lambda seen: jax.vmap(one)(seen.logits, seen.adv_logits)


def robust_risk(output: str, combine: str) -> Score:
    """W_nat and W_bdy as one number: their "sum", "product", or one alone.

    Ref: as `w_nat`; the paper ranks by "the decoupled risk" and leaves the combination
    open, so it is a choice here.
    """
    rules = {
        "sum": lambda nat, bdy: nat + bdy,
        "product": lambda nat, bdy: nat * bdy,
        "nat": lambda nat, bdy: nat,
        "bdy": lambda nat, bdy: bdy,
    }
    if combine not in rules:
        raise unknown_name("combination of risks", combine, rules)
    natural, boundary = w_nat(output), w_bdy(output)
    return lambda seen: rules[combine](natural(seen), boundary(seen))


def error(on: str = "adversarial") -> Score:
    """The cross-entropy of the attacked image, or of the clean one."""
    logits = _logits(on)
    return lambda seen: losses.cross_entropy(logits(seen), seen.label)


def clean_error() -> Score:
    """`error` of the clean image, under a name of its own."""
    return error("clean")


def margin(on: str = "adversarial") -> Score:
    """max_{k != y} z_k - z_y of the attacked image, or of the clean one: > 0 where it
    is misread."""
    logits = _logits(on)
    return lambda seen: losses.margin(logits(seen), seen.label)


def el2n(on: str = "clean") -> Score:
    """||softmax(z) - onehot(y)||_2 of the clean image, or of the attacked one.

    Ref: Paul et al., Deep Learning on a Data Diet, arXiv:2107.07075, def. 2.2.
    """
    logits = _logits(on)

    def score(seen: Prediction) -> Array:
        return jnp.linalg.norm(error_vector(logits(seen), seen.label), axis=-1)

    return score


def input_gradient(on: str) -> NetworkScore:
    """||d CE(f(x), y) / dx||_2 at the clean or the attacked image, by [0,1] pixels.

    EasyCore keeps the EASY images, those of the smallest norm: `order` "easy".

    Ref: Ramesh et al., The Easy Path to Robustness, arXiv:2510.11018. Deviates: the
    paper averages the norm over the networks of a training run (AIGN); this is the norm
    for one network, so the mean of such scores over checkpoints is the paper's.
    """
    _logits(on)

    def of(logits_fn: LogitsFn, attacked: Attacked) -> Array:
        x = attacked.image if on == "clean" else attacked.x_adv
        slope, _ = image_gradient(logits_fn, losses.cross_entropy, attacked.label)(x)
        return jnp.linalg.norm(jnp.reshape(slope, (len(x), -1)), axis=-1)

    return NetworkScore(of)


def error_vector(logits: Array, label: Array) -> Array:
    """delta = softmax(z) - onehot(y), f32[B,K]: d CE / d logits, the first factor of
    a last-layer gradient."""
    return jax.nn.softmax(logits) - jax.nn.one_hot(label, logits.shape[-1])


def grand(delta: Array, embedding: Array) -> Array:
    """||d CE / d(W, b)||_2 of the last layer z = W e + b, f32[B], from its factors.

    The gradient is delta (e, 1)^T, so its norm is ||delta|| sqrt(||e||^2 + 1); delta
    f32[B,K] of `error_vector`, embedding e f32[B,D]. With e = 0 it is `el2n`.

    Ref: Paul et al., arXiv:2107.07075, def. 2.1. Deviates: their GraNd is the norm over
    all weights, in expectation over initialisations; this one is of the last layer of
    one network.
    """
    stretch = jnp.sqrt(jnp.sum(jnp.square(embedding), axis=-1) + 1.0)
    return jnp.linalg.norm(delta, axis=-1) * stretch


def last_layer_gradient(on: str) -> FeatureScore:
    """`grand` of the clean or the attacked image."""
    _logits(on)

    def of(features_fn: FeaturesFn, attacked: Attacked) -> Array:
        x = attacked.image if on == "clean" else attacked.x_adv
        logits, embedding = features_fn(x)
        return grand(error_vector(logits, attacked.label), embedding)

    return FeatureScore(of)


AnyScore = Score | NetworkScore | FeatureScore

SCORES: dict[str, Callable[..., AnyScore]] = {
    "clean_error": clean_error,
    "el2n": el2n,
    "error": error,
    "grand": last_layer_gradient,
    "input_gradient": input_gradient,
    "margin": margin,
    "robust_risk": robust_risk,
    "w_bdy": w_bdy,
    "w_nat": w_nat,
}
"""Scores by name; `selection.ScoringPass` takes every kind."""


def _output(name: str) -> Callable[[Array], Array]:
    if name not in _OUTPUTS:
        raise unknown_name("output of the score", name, _OUTPUTS)
    return _OUTPUTS[name]


def _logits(on: str) -> Callable[[Prediction], Array]:
    if on not in INPUTS:
        raise unknown_name("input of the score", on, INPUTS)
    return lambda seen: seen.logits if on == "clean" else seen.adv_logits
