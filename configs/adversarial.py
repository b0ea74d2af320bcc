"""Methods of adversarial training side by side on one data set.

Source   PGD-AT (arXiv:1706.06083), TRADES (1901.08573), MART (ICLR 2020), N-FGSM
         (2202.01181), FGSM-RS (2001.03994). ResNet-18, CIFAR-10, linf 8/255, in table I
         of the hybrid paper (natural / PGD-20): PGD-AT 83.80 / 51.40, TRADES
         82.45 / 52.21, N-FGSM 80.18 / 48.17.
Run      python -m jaxrobust.main --config=configs/adversarial.py
Variants (none)    1,297 digits of 8x8; cifar10 the usual benchmark; smoke for tests
"""

from configs import base, hybrid

VARIANTS = ("", "cifar10", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("adversarial.py", variant, VARIANTS[1:])
    config = hybrid.get_config(variant)
    for section in ("reconstruct", "score", "generated", "generator"):
        del config[section]
    config.task = "train"
    config.title = config.title.replace("Hybrid data reconstruction", "Training")
    config.compare = ("standard", "pgd_at", "trades", "mart", "nfgsm", "fgsm_rs")
    if variant == "":
        config.data.train_limit = 0
        config.data.val_count = 100
        config.train.probe_every_steps = 400
    if variant == "smoke":
        config.data.val_count = 20
        config.train.probe_every_steps = 8
    return config
