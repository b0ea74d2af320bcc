"""Attacks: `(keys[B], logits_fn, image, target) -> x_adv`, under stop_gradient.

They see a model only as `logits_fn`, differentiate with respect to the image only, and
sum their loss over the batch, so that no row depends on another.
"""

from jaxrobust.attacks.fgsm import fgsm, fgsm_rs, nfgsm
from jaxrobust.attacks.noise import no_attack, random_noise
from jaxrobust.attacks.pgd import pgd

ATTACKS = {
    "fgsm": fgsm,
    "fgsm_rs": fgsm_rs,
    "nfgsm": nfgsm,
    "none": no_attack,
    "pgd": pgd,
    "random_noise": random_noise,
}

__all__ = ["ATTACKS"]
