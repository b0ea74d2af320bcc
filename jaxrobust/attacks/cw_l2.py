"""The smallest l2 perturbation that Adam finds in tanh space."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxrobust import losses
from jaxrobust.attacks.gradient import image_gradient
from jaxrobust.attacks.machine import where_rows
from jaxrobust.errors import UserError
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn

_SQUEEZE = 0.999999
_BETA1, _BETA2, _ADAM_EPS = 0.9, 0.999, 1e-8


class _Search(NamedTuple):
    """What one value of c hands to the next, a row for each image: `low` and `high`
    bracket c, and `x` at the squared distance `size` is the closest success so far."""

    const: Array
    low: Array
    high: Array
    x: Array
    size: Array


def cw_l2(
    threat: ThreatModel,
    num_steps: int,
    binary_search_steps: int,
    learning_rate: float,
    initial_const: float,
    confidence: float,
    bounded: bool,
) -> Attack:
    """argmin ||x - image||^2 + c max(confidence - margin(x), 0) over x = box(tanh w).

    Every image has its own c: `initial_const`, times ten until it succeeds, then
    halfway between the largest failure and the smallest success. Each c starts Adam
    afresh at the image. Returns the closest iterate of all whose margin exceeds
    `confidence`; the clean image where there is none and, if `bounded`, where the
    closest lies outside the l2 ball. Without `bounded` eps is not read and distances
    have no limit, as in tables that list "CW" next to attacks of fixed eps.

    Raises `UserError` if `bounded` in another norm.

    Ref: Carlini and Wagner, arXiv:1608.04644, sections V.B and VI.A, with the released
    constants (binary_search_steps 9, num_steps 10000, learning_rate 0.01, initial_const
    0.001, confidence 0).
    Deviates: no early abort, which saves nothing in loops of static length; distances
    are to the image itself, not to its squeezed copy. With binary_search_steps 1 it is
    CW of torchattacks with c = initial_const, without its faults: that takes the other
    classes' largest logit to be at least 0, never moves pixels at exactly 0 or 1, and
    stops a whole batch when the sum of its costs rises.
    """
    if bounded and threat.norm != "l2":
        raise UserError(
            f"cw_l2 keeps to balls in l2, not {threat.norm}: set bounded = False, or "
            "take pgd with the margin loss"
        )
    if binary_search_steps < 1:
        raise UserError("cw_l2 needs binary_search_steps >= 1")

    descend = _descent(threat, num_steps, learning_rate, confidence)

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        label = losses.hard(target)

        def search(state: _Search, _):
            return _next(state, *descend(logits_fn, image, label, state.const)), None

        clean = losses.margin(logits_fn(image), label) > confidence
        state = _first(image, clean, initial_const)
        state, _ = lax.scan(search, state, length=binary_search_steps)
        if not bounded:
            return lax.stop_gradient(state.x)
        inside = threat.distance(state.x, image) <= threat.eps_of_rows(image)
        return lax.stop_gradient(where_rows(inside, state.x, image))

    return attack


def _descent(
    threat: ThreatModel, num_steps: int, learning_rate: float, confidence: float
):
    """(logits_fn, image, label, c f32[B]) -> the closest success of one descent with
    c, as (x, its squared distance f32[B], inf where nothing succeeded)."""

    def descend(logits_fn: LogitsFn, image: Array, label: Array, const: Array):
        def cost(logits: Array, const: Array) -> Array:
            gap = confidence - losses.margin(logits, label)
            return const * jnp.maximum(gap, 0.0)

        gradient = image_gradient(logits_fn, cost, const)

        def body(step, carry):
            w, moments, x_best, best = carry
            x, slope = _from_tanh(threat, w)
            g, (_, logits) = gradient(x)
            delta = x - image
            size = jnp.sum(delta**2, axis=(1, 2, 3))
            wins = (losses.margin(logits, label) > confidence) & (size < best)
            x_best, best = where_rows(wins, x, x_best), jnp.where(wins, size, best)
            change, moments = _adam((2 * delta + g) * slope, moments, step)
            return w - learning_rate * change, moments, x_best, best

        nothing, endless = jnp.zeros_like(image), jnp.full(len(image), jnp.inf)
        start = _to_tanh(threat, image), (nothing, nothing), image, endless
        return lax.fori_loop(0, num_steps, body, start)[2:]

    return descend


def _first(image: Array, clean: Array, initial_const: float) -> _Search:
    """Nothing known, but that an image misread from the start needs no change."""
    zeros = jnp.zeros(len(image))
    endless = zeros + jnp.inf
    size = jnp.where(clean, 0.0, jnp.inf)
    return _Search(zeros + initial_const, zeros, endless, image, size)


def _next(state: _Search, x: Array, size: Array) -> _Search:
    """The bracket and the next c after `state.const` reached `x` (size inf: failed)."""
    success = size < jnp.inf
    low = jnp.where(success, state.low, state.const)
    high = jnp.where(success, state.const, state.high)
    const = jnp.where(high < jnp.inf, (low + high) / 2, 10 * state.const)
    wins = size < state.size
    x = where_rows(wins, x, state.x)
    return _Search(const, low, high, x, jnp.where(wins, size, state.size))


def _to_tanh(threat: ThreatModel, image: Array) -> Array:
    """w with box(tanh w) = image, drawn in a little so that pixels at a bound move."""
    low, high = threat.bounds
    return jnp.arctanh(_SQUEEZE * (2 * (image - low) / (high - low) - 1))


def _from_tanh(threat: ThreatModel, w: Array) -> tuple[Array, Array]:
    """x = box(tanh w) and dx/dw."""
    low, high = threat.bounds
    half, t = (high - low) / 2, jnp.tanh(w)
    return threat.clip(low + half * (t + 1)), half * (1 - t**2)


def _adam(g: Array, moments: tuple[Array, Array], step: Array):
    """Adam's direction for step number `step`, counted from 0, and its new moments."""
    first = _BETA1 * moments[0] + (1 - _BETA1) * g
    second = _BETA2 * moments[1] + (1 - _BETA2) * g**2
    unbiased = first / (1 - _BETA1 ** (step + 1))
    spread = jnp.sqrt(second / (1 - _BETA2 ** (step + 1)))
    return unbiased / (spread + _ADAM_EPS), (first, second)
