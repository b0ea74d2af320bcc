"""Momentum iterative FGSM: PGD whose direction remembers."""

import jax.numpy as jnp
from jax import Array, lax

from jaxrobust.attacks import keep
from jaxrobust.attacks.gradient import image_gradient
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn, LossFn


def mim(
    threat: ThreatModel,
    loss: LossFn,
    step_size: float,
    num_steps: int,
    decay: float,
    keep_best: bool,
) -> Attack:
    """m <- decay m + g / ||g||_1; x <- P[x + step_size * steepest(m)], from the image.

    `step_size` has the unit of eps. With `keep_best` each row returns its iterate of
    largest margin (one more forward pass), without, the last iterate; where nothing
    fools the network that is the strongest or the last point, never the clean image. A
    zero gradient adds nothing to the momentum.

    Ref: Dong et al., Boosting Adversarial Attacks with Momentum, arXiv:1710.06081,
    algorithm 1.
    Deviates: ||g||_1 is of each image. The code released with GUARD takes it over the
    whole batch, so that an image's momentum depends on its neighbours; that is not
    offered.
    """

    def advance(x: Array, momentum: Array, g: Array, image: Array):
        size = jnp.sum(jnp.abs(g), axis=(1, 2, 3), keepdims=True)
        momentum = decay * momentum + g / jnp.where(size > 0, size, 1.0)
        return threat.project(
            x + step_size * threat.steepest(momentum), image
        ), momentum

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        gradient = image_gradient(logits_fn, loss, target)

        def body(_, carry):
            x, momentum, best = carry
            g, (_, logits) = gradient(x)
            if keep_best:
                best = keep.better(best, x, logits, target)
            return *advance(x, momentum, g, image), best

        start = (image, jnp.zeros_like(image), keep.none_yet(image))
        x, _, best = lax.fori_loop(0, num_steps, body, start)
        if keep_best:
            x, _ = keep.better(best, x, logits_fn(x), target)
        return lax.stop_gradient(x)

    return attack
