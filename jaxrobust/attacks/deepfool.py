"""The shortest way across the border of a network made linear, again and again."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust import losses
from jaxrobust.attacks.machine import ranked_others, where_rows
from jaxrobust.errors import UserError
from jaxrobust.threat import ThreatModel, column
from jaxrobust.types import Attack, LogitsFn

NORMS = ("linf", "l2")
_NUDGE = 1e-4


def deepfool(
    threat: ThreatModel,
    num_steps: int,
    overshoot: float,
    num_candidates: int,
    bounded: bool,
) -> Attack:
    """r <- r + (|f_k| / ||w_k||_dual + 1e-4) steepest(w_k); x = image + (1 + overshoot)
    r in the box, where f_k = z_k - z_y, w_k = df_k/dx at x and k is the class of least
    |f_k| / ||w_k||_dual.

    The candidates k are the `num_candidates` likeliest classes of the clean image that
    are not its label (all where there are fewer). A row stops when it is misread.
    Returns the clean image where `num_steps` are not enough and, if `bounded`, where
    the result lies outside the ball; an image misread from the start is not changed.
    Without `bounded` eps is not read.

    Raises `UserError` in l1.

    Ref: Moosavi-Dezfooli et al., arXiv:1511.04599, algorithm 2 and section 3.2 for
    other norms (num_steps 50, overshoot 0.02, num_candidates 9 of 10 classes).
    Deviates: the class to leave is the label, not the prediction.
    """
    if threat.norm not in NORMS:
        raise UserError(
            f"deepfool is not defined in {threat.norm}: take one of {', '.join(NORMS)}"
        )

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        label = losses.hard(target)
        others = ranked_others(logits_fn(image), label)[:, :num_candidates]

        def body(_, carry):
            r, x = carry
            logits, gaps, slopes = _linearise(logits_fn, x, label, others)
            active = losses.margin(logits, label) <= 0
            r = r + _shortest(threat, gaps, slopes)
            moved = threat.clip(image + (1 + overshoot) * r)
            return r, where_rows(active, moved, x)

        start = jnp.zeros_like(image), image
        _, x = lax.fori_loop(0, num_steps, body, start)
        valid = losses.margin(logits_fn(x), label) > 0
        if bounded:
            valid &= threat.distance(x, image) <= threat.eps_of_rows(image)
        return lax.stop_gradient(where_rows(valid, x, image))

    return attack


def _linearise(logits_fn: LogitsFn, x: Array, label: Array, others: Array):
    """Logits f32[B,K], gaps z_k - z_y f32[k,B] and their gradients f32[k,B,H,W,C]."""
    logits, pull_back = jax.vjp(logits_fn, x)
    own = jax.nn.one_hot(label, logits.shape[-1])
    direction = jax.nn.one_hot(others.T, logits.shape[-1]) - own[None]
    gaps = jnp.sum(direction * logits[None], axis=-1)
    return logits, gaps, jax.vmap(lambda d: pull_back(d)[0])(direction)


def _shortest(threat: ThreatModel, gaps: Array, slopes: Array) -> Array:
    """The step to the nearest of the k borders, f32[B,H,W,C]; none where all are
    flat."""
    axes = (2, 3, 4)
    if threat.norm == "linf":
        size = jnp.sum(jnp.abs(slopes), axes)
    else:
        size = jnp.sqrt(jnp.sum(slopes**2, axes))
    far = jnp.where(size > 0, jnp.abs(gaps) / jnp.where(size > 0, size, 1.0), jnp.inf)
    nearest = jnp.argmin(far, axis=0)
    least = jnp.min(far, axis=0)
    slope = jnp.take_along_axis(slopes, nearest[None, :, None, None, None], axis=0)[0]
    length = jnp.where(least < jnp.inf, least + _NUDGE, 0.0)
    return column(length) * threat.steepest(slope)
