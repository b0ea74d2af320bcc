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

    def one_run(keys: Array, logits_fn: LogitsFn, image: Array, target: Array):
        gradient = image_gradient(logits_fn, loss, target)
        x = _start(threat, start, keys, image)

        def ascend(x: Array, g: Array) -> Array:
            return threat.project(x + step_size * threat.steepest(g), image)

        if not (keep_best or num_restarts > 1):
            return lax.fori_loop(
                0, num_steps, lambda _, x: ascend(x, gradient(x)[0]), x
            )

        def body(_, carry):
            x, best, best_margin = carry
            g, (_, logits) = gradient(x)
            best, best_margin = _better(best, best_margin, x, logits, target)
            return ascend(x, g), best, best_margin

        worst = jnp.full(len(image), -jnp.inf)
        x, best, best_margin = lax.fori_loop(0, num_steps, body, (x, x, worst))
        return _better(best, best_margin, x, logits_fn(x), target)

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        if not (keep_best or num_restarts > 1):
            return lax.stop_gradient(one_run(keys, logits_fn, image, target))

        def restart(carry, number):
            best, best_margin = carry
            fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
            x, found = one_run(fold(keys, number), logits_fn, image, target)
            wins = found > best_margin
            best = jnp.where(wins[:, None, None, None], x, best)
            return (best, jnp.where(wins, found, best_margin)), None

        none_yet = (image, jnp.full(len(image), -jnp.inf))
        (best, _), _ = lax.scan(restart, none_yet, jnp.arange(num_restarts))
        return lax.stop_gradient(best)

    return attack


def _start(threat: ThreatModel, start: str, keys: Array, image: Array) -> Array:
    if start == "uniform":
        return threat.random_init(keys, image)
    if start == "gaussian":
        draw = lambda key: jax.random.normal(key, image.shape[1:])
        return threat.project(image + _GAUSSIAN_SCALE * jax.vmap(draw)(keys), image)
    return image


def _better(best: Array, best_margin: Array, x: Array, logits: Array, target: Array):
    found = losses.margin(logits, losses.hard(target))
    wins = found > best_margin
    best = jnp.where(wins[:, None, None, None], x, best)
    return best, jnp.where(wins, found, best_margin)
