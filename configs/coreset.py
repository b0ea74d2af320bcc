"""Adversarial coresets, chosen anew as training goes on, against random images.

Source   Adversarial Coreset Selection (arXiv:2112.00378, 2209.05785), clean / robust
         accuracy and speed-up, half of the images unless said:
         TRADES CIFAR-10    CRAIG 83.03 / 41.45  GradMatch 83.07 / 41.52  1.92x, 1.93x
         PGD linf CIFAR-10  CRAIG 80.37 / 45.07  GradMatch 80.67 / 45.23  1.98x
         PGD l2 SVHN        CRAIG 95.42 / 49.68  GradMatch 95.57 / 50.41  2.99x, 3.10x
         There is no row of random images that are drawn again; here there is.
Run      python -m jaxrobust.main --config=configs/coreset.py
Variants (none)    1,197 digits of 8x8; cifar10_linf and cifar10_trades the paper's
         settings; small_cifar10 for 2 CPU cores; smoke for tests
"""

from configs import base, compare

VARIANTS = ("", "cifar10_linf", "cifar10_trades", "small_cifar10", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("coreset.py", variant, VARIANTS[1:])
    c = compare.get_config("cifar10" if variant.startswith("cifar10") else variant)
    c.title = c.title.replace("Choosing training images", "Adversarial coresets")
    c.comparison.budgets = (0.5,)
    c.comparison.rules = ("steps", "epochs", "time")
    del c.comparison.choices
    c.comparison.choices = choices()
    if variant == "":
        c.data.val_count = 100  # for GLISTER
        c.train.num_steps = 180
        c.train.chunk_steps = 15
    if variant.startswith("cifar10"):
        cifar10(c, variant.removeprefix("cifar10_"))
    if variant == "small_cifar10":
        c.data.val_count = 200
        c.train.num_steps = 180
        c.train.chunk_steps = 15
    if variant == "smoke":
        c.data.val_count = 20
        c.train.num_steps = 24
        c.train.checkpoint_every_steps = 6
        c.train.chunk_steps = 2
        c.comparison.rules = ("epochs",)
        for name in ("gradmatch", "random_balanced", "random_redrawn"):
            del c.comparison.choices[name]
    return c


def choices() -> dict:
    """The algorithms, and chance."""
    gradmatch = {"name": "gradmatch", "ridge": 0.01}
    return {
        "full": {"name": "full"},
        "random": {"name": "random"},
        "random_balanced": {"name": "random_balanced"},
        "random_redrawn": {"name": "random_redrawn"},
        "craig": coreset({"name": "craig", "scope": "class"}),
        "gradmatch": coreset({**gradmatch, "scope": "class"}),
        "gradmatch_batch": coreset({**gradmatch, "scope": "batch", "batch_size": 16}),
        "glister": coreset({"name": "glister", "step_size": 1.0, "rounds": 20}),
    }


def coreset(algorithm: dict) -> dict:
    """Half of the steps on everything, then three coresets."""
    return {
        "name": "coreset",
        "algorithm": algorithm,
        "warm_percent": 50.0,  # kappa, of the steps: the consumed budget
        "every_percent": 100 / 6,  # T
    }


def cifar10(c, objective: str) -> None:
    """ResNet-18; 120 epochs of linf PGD-AT or 100 of TRADES, batch 128."""
    c.data.val_count = 500
    c.train.num_epochs = 100 if objective == "trades" else 120
    c.comparison.choices.gradmatch_batch.algorithm.batch_size = 128
    if objective == "trades":
        c.comparison.method = "trades"
        c.optim.weight_decay = 2e-4
    else:
        c.methods.pgd_at.attack.step_size = 1.25 / 255
        c.optim.learning_rate = 0.01
        c.optim.schedule.drop_percents = (66.7, 83.3)
