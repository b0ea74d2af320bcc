"""No attack at all, noise of the attack's size without its gradients, and the noise of
randomized smoothing."""

import jax
from jax import Array

from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn


def no_attack() -> Attack:
    """The identity: clean training and clean accuracy."""

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        return image

    return attack


def random_noise(threat: ThreatModel) -> Attack:
    """A uniform draw from the ball: what an attack must beat by far."""

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        return threat.random_init(keys, image)

    return attack


def gaussian(threat: ThreatModel, sigma: float, clamp: bool) -> Attack:
    """x + N(0, sigma^2 I), clipped to the pixels' range where `clamp` is set.

    What smoothed classifiers are trained on; eps is not read. `sigma` is in [0,1]
    pixels.

    Ref: Cohen et al., arXiv:1902.02918, section 3.3 (no clamp); Carmon et al.,
    arXiv:1905.13736 clamp in training, never when certifying.
    """

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        draw = lambda key: jax.random.normal(key, image.shape[1:])
        noisy = image + sigma * jax.vmap(draw)(keys)
        return threat.clip(noisy) if clamp else noisy

    return attack
