"""Projected gradient ascent, the work-horse of training and of quick evaluation."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust import losses
from jaxrobust.attacks.gradient import image_gradient
from jaxrobust.errors import unknown_name
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn, LossFn

STARTS = ("uniform", "gaussian", "none")
_GAUSSIAN_SCALE = 1e-3


def pgd(
    threat: ThreatModel,
    loss: LossFn,
    step_size: float,
    num_steps: int,
    start: str,
    num_restarts: int,
    keep_best: bool,
) -> Attack:
    """x <- P[x + step_size * steepest(grad_x sum_i loss_i)], `num_steps` times.

    `step_size` has the unit of eps. `start` is a draw from the ball ("uniform"), 0.001
    times a normal draw ("gaussian", as in TRADES) or the image ("none"). With
    `keep_best` or several restarts each row returns its iterate of largest margin (so
    an iterate that fooled the network is never lost), at the price of one more forward
    pass; without, the last iterate.

    Ref: Madry et al., arXiv:1706.06083, section 2.1.
    """
    if start not in STARTS:
        raise unknown_name("start of pgd", start, STARTS)

    keeps = keep_best or num_restarts > 1

    def ascend(x: Array, g: Array, image: Array) -> Array:
        return threat.project(x + step_size * threat.steepest(g), image)

    def last_iterate(x: Array, gradient, image: Array) -> Array:
        body = lambda _, x: ascend(x, gradient(x)[0], image)
        return lax.fori_loop(0, num_steps, body, x)

    def best_iterate(x: Array, gradient, image: Array, target: Array, last_logits_fn):
        def body(_, carry):
            x, best = carry
            g, (_, logits) = gradient(x)
            return ascend(x, g, image), _better(best, x, logits, target)

        none_yet = (x, jnp.full(len(image), -jnp.inf))
        x, best = lax.fori_loop(0, num_steps, body, (x, none_yet))
        return _better(best, x, last_logits_fn(x), target)

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        gradient = image_gradient(logits_fn, loss, target)
        if not keeps:
            x = _start(threat, start, keys, image)
            return lax.stop_gradient(last_iterate(x, gradient, image))

        def restart(best, number):
            fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
            x = _start(threat, start, fold(keys, number), image)
            found = best_iterate(x, gradient, image, target, logits_fn)
            return _larger(best, *found), None

        none_yet = (image, jnp.full(len(image), -jnp.inf))
        (x, _), _ = lax.scan(restart, none_yet, jnp.arange(num_restarts))
        return lax.stop_gradient(x)

    return attack


def _start(threat: ThreatModel, start: str, keys: Array, image: Array) -> Array:
    if start == "uniform":
        return threat.random_init(keys, image)
    if start == "gaussian":
        draw = lambda key: jax.random.normal(key, image.shape[1:])
        return threat.project(image + _GAUSSIAN_SCALE * jax.vmap(draw)(keys), image)
    return image


def _better(best: tuple[Array, Array], x: Array, logits: Array, target: Array):
    """Row by row, the (image, margin) of larger margin: the best so far or `x`."""
    return _larger(best, x, losses.margin(logits, losses.hard(target)))


def _larger(best: tuple[Array, Array], x: Array, margin: Array):
    wins = margin > best[1]
    image = jnp.where(wins[:, None, None, None], x, best[0])
    return image, jnp.where(wins, margin, best[1])
