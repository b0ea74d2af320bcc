"""Controls: no attack at all, and noise of the attack's size without its gradients."""

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
