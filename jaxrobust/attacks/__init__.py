"""Attacks: `(keys[B], logits_fn, image, target) -> x_adv`, under stop_gradient.

They see a model only as `logits_fn`, differentiate with respect to the image only, and
sum their loss over the batch, so that no row depends on another.
"""

from jaxrobust.attacks.apgd import apgd
from jaxrobust.attacks.cw_l2 import cw_l2
from jaxrobust.attacks.deepfool import deepfool
from jaxrobust.attacks.fab import fab
from jaxrobust.attacks.fast_lagrangian import fast_lagrangian
from jaxrobust.attacks.fgsm import fgsm, fgsm_rs, nfgsm
from jaxrobust.attacks.mim import mim
from jaxrobust.attacks.minimum_eps import minimum_eps
from jaxrobust.attacks.noise import gaussian, no_attack, random_noise
from jaxrobust.attacks.one_pixel import one_pixel
from jaxrobust.attacks.pgd import pgd
from jaxrobust.attacks.square import square

ATTACKS = {
    "apgd": apgd,
    "cw_l2": cw_l2,
    "deepfool": deepfool,
    "fab": fab,
    "fast_lagrangian": fast_lagrangian,
    "fgsm": fgsm,
    "fgsm_rs": fgsm_rs,
    "gaussian": gaussian,
    "mim": mim,
    "minimum_eps": minimum_eps,
    "nfgsm": nfgsm,
    "none": no_attack,
    "one_pixel": one_pixel,
    "pgd": pgd,
    "random_noise": random_noise,
    "square": square,
}

__all__ = ["ATTACKS"]
