"""An attack whose limit is what a frozen network sees, not a norm of pixels."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust.attacks.machine import where_rows
from jaxrobust.losses import hard
from jaxrobust.threat import ThreatModel, column
from jaxrobust.types import Attack, LogitsFn, LossFn

PerceptualFn = Callable[[Array], Array]
"""f32[B,H,W,C] pixels in [0,1] -> f32[B,F]: images far apart there look different."""

_NOISE, _PROBE, _PENALTY, _DECAY = 0.01, 0.1, 10.0, 0.1
_LEAST_RATE = 1e-4


def fast_lagrangian(
    threat: ThreatModel,
    loss: LossFn,
    bound: float,
    num_steps: int,
    attack_wrong: bool,
    features: PerceptualFn,
) -> Attack:
    """x <- clip[x + eta / m g / ||g||_2], g = d/dx [loss - lambda max(0, d - bound)].

    d = ||phi(x) - phi(image)||_2 with phi = `features`. At step t of K eta is
    bound * 0.1^(t / K), lambda is 10 * 0.1^(1 - t / K), and m = ||phi(x + h u) -
    phi(x)||_2 / h with u = g / ||g||_2, h = 0.1, so that a step moves by about eta
    in d. The start is N(0, 0.01^2) away from the image.

    Nothing projects: `bound` is soft, and eps is not read (of the threat only the range
    of pixels counts), so it is for training only. Without `attack_wrong` an image that
    the network misreads is left as it is, which costs one more forward pass.

    Ref: Laidlaw et al., Perceptual Adversarial Robustness, arXiv:2006.12655, algorithm
    3 (Fast-LPA); the paper maximises the margin.
    Deviates: the released code measures m in the direction opposite to its step, and
    clips to the range of pixels after the first step only.
    """
    l2 = dataclasses.replace(threat, norm="l2")

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        seen = features(image)

        def goal(x: Array, penalty: Array) -> tuple[Array, Array]:
            phi = features(x)
            excess = jax.nn.relu(feature_distance(phi, seen) - bound)
            return jnp.sum(loss(logits_fn(x), target) - penalty * excess), phi

        def body(t: Array, x: Array) -> Array:
            decay = _DECAY ** (t / num_steps)
            g, phi = jax.grad(goal, has_aux=True)(x, _PENALTY * _DECAY / decay)
            u = l2.steepest(g)
            rate = feature_distance(features(x + _PROBE * u), phi) / _PROBE
            return threat.clip(x + column(bound * decay / (rate + _LEAST_RATE)) * u)

        noise = jax.vmap(lambda key: jax.random.normal(key, image.shape[1:]))(keys)
        x = lax.fori_loop(0, num_steps, body, threat.clip(image + _NOISE * noise))
        if not attack_wrong:
            right = jnp.argmax(logits_fn(image), axis=-1) == hard(target)
            x = where_rows(right, x, image)
        return lax.stop_gradient(x)

    return attack


def feature_distance(phi: Array, other: Array) -> Array:
    """||phi - other||_2 of each row, f32[B], of features f32[B,F]; where they are equal
    its gradient is 0, not NaN."""
    square = jnp.sum((phi - other) ** 2, axis=1)
    equal = square == 0
    return jnp.where(equal, 0.0, jnp.sqrt(jnp.where(equal, 1.0, square)))
