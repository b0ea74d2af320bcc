"""Single-step attacks: one gradient for each image."""

import dataclasses

from jax import Array, lax

from jaxrobust.attacks.gradient import image_gradient
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn, LossFn


def fgsm(threat: ThreatModel, loss: LossFn) -> Attack:
    """P[x + eps * steepest(g)] from the clean image.

    Ref: Goodfellow et al., arXiv:1412.6572.
    """

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        g, _ = image_gradient(logits_fn, loss, target)(image)
        return lax.stop_gradient(
            threat.project(image + threat.eps * threat.steepest(g), image)
        )

    return attack


def fgsm_rs(threat: ThreatModel, loss: LossFn, step_ratio: float) -> Attack:
    """A uniform start in the ball, one step of `step_ratio` * eps, projected back.

    Ref: Wong et al., Fast is better than free, arXiv:2001.03994 (step_ratio 1.25).
    Deviates: bounds are those of each pixel; the released code uses channel 0's for
    all.
    """

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        x = threat.random_init(keys, image)
        g, _ = image_gradient(logits_fn, loss, target)(x)
        step = step_ratio * threat.eps * threat.steepest(g)
        return lax.stop_gradient(threat.project(x + step, image))

    return attack


def nfgsm(
    threat: ThreatModel, loss: LossFn, noise_ratio: float, step_ratio: float
) -> Attack:
    """x + U(-k eps, k eps) + step_ratio * eps * sign(g at the noisy image), in the box.

    The sum is *not* clipped to the eps-ball: its perturbations reach (k + step_ratio)
    eps, which is the method's point, so it is for training only.

    Ref: de Jorge et al., Make Some Noise, arXiv:2202.01181 (noise_ratio k = 2,
    step_ratio 1).
    """
    wide = dataclasses.replace(threat, eps=noise_ratio * threat.eps)

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        noisy = wide.random_init(keys, image)
        g, _ = image_gradient(logits_fn, loss, target)(noisy)
        step = step_ratio * threat.eps * threat.steepest(g)
        return lax.stop_gradient(threat.clip(noisy + step))

    return attack
