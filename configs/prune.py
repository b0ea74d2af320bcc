"""Pruning by robust risk: how much of a training set can go.

Source   Dong et al., Towards Adversarially Robust Data-Efficient Learning with
         Generated Data, table II (CIFAR-10, ResNet-18, N-FGSM; natural / PGD-20):
         original  random 80% 78.52 / 46.93, 40% 72.76 / 42.39
                   heuristic  78.07 / 47.75,     72.16 / 43.25
         hybrid    random     78.46 / 48.10,     72.78 / 43.30
                   heuristic  78.97 / 48.82,     72.95 / 44.08
Run      python -m jaxrobust.main --config=configs/prune.py
Variants (none)    digits, 8x8, embedded; cifar10 the paper's setting; smoke for tests
"""

from configs import base, hybrid

VARIANTS = ("", "cifar10", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants: hybrid.py's data and networks, other rows."""
    if variant not in VARIANTS:
        raise base.unknown_variant("prune.py", variant, VARIANTS[1:])
    config = hybrid.get_config(variant)
    config.task = "prune"
    config.title = config.title.replace("Hybrid data reconstruction", "Pruning")
    config.prune = {
        "method": "nfgsm",
        "keep_ratios": (0.8, 0.4),  # of the images of each set
    }
    # Pruning saves time only if passes, not steps, are what stays equal.
    if config.train.num_steps:
        size = config.data.train_limit
        per_epoch = size // config.train.batch_size
        config.train.num_epochs = -(-config.train.num_steps // per_epoch)
        config.train.num_steps = 0
    return config
