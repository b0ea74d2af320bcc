"""How much an example matters: one number for each, from its clean and attacked
logits."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust import losses
from jaxrobust.errors import unknown_name


class Prediction(NamedTuple):
    """What a network says of images: `logits`, `adv_logits` f32[B,K]; `label`
    i32[B]."""

    logits: Array
    adv_logits: Array
    label: Array


Score = Callable[[Prediction], Array]
"""Prediction -> f32[B]; larger means harder."""

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


def error() -> Score:
    """The cross-entropy of the attacked image."""
    return lambda seen: losses.cross_entropy(seen.adv_logits, seen.label)


def clean_error() -> Score:
    """The cross-entropy of the clean image."""
    return lambda seen: losses.cross_entropy(seen.logits, seen.label)


def margin() -> Score:
    """max_{k != y} z_k - z_y of the attacked image: > 0 where it is fooled."""
    return lambda seen: losses.margin(seen.adv_logits, seen.label)


def el2n() -> Score:
    """||softmax(z) - onehot(y)||_2 of the clean image.

    Ref: Paul et al., Deep Learning on a Data Diet, arXiv:2107.07075, def. 2.2.
    """

    def one(logits: Array, label: Array) -> Array:
        own = jax.nn.one_hot(label, logits.shape[-1])
        return jnp.linalg.norm(jax.nn.softmax(logits) - own)

    return lambda seen: jax.vmap(one)(seen.logits, seen.label)


SCORES = {
    "clean_error": clean_error,
    "el2n": el2n,
    "error": error,
    "margin": margin,
    "robust_risk": robust_risk,
    "w_bdy": w_bdy,
    "w_nat": w_nat,
}


def _output(name: str) -> Callable[[Array], Array]:
    if name not in _OUTPUTS:
        raise unknown_name("output of the score", name, _OUTPUTS)
    return _OUTPUTS[name]
