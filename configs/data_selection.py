"""In-batch data selection: learn only from the images of a batch that err most.

Source   Data selection for adversarial training (ResNet-18, CIFAR-10, linf 8/255,
         PGD-20 with steps of 0.01, 200 epochs): P_up = 0.5 is on a par with P_up = 1 in
         accuracy and saves 2% of the time, since the attack is made on everything.
         Selecting before the attack, or after a few of its steps, saves half of it.
Run      python -m jaxrobust.main --config=configs/data_selection.py
Expect   Digits, 3 seeds, 11 ways: 5.5 minutes on 2 slow CPU cores. The table, figures 3
         to 8 of the paper and the time of every order are in the report; PGD-20
         accuracy 61% of all attacked images, 54% of half of the union.
Variants (none)    576 digits of 8x8; cifar10 the paper's setting; smoke for tests
"""

from configs import adversarial, base

VARIANTS = ("", "cifar10", "smoke")
SWEEP = (20, 50, 75, 100)
"""P_up of figure 3, in percent."""


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("data_selection.py", variant, VARIANTS[1:])
    c = adversarial.get_config(variant)
    c.title = c.title.replace("Training", "In-batch data selection")
    pgd = c.methods.pgd_at.attack.to_dict()
    if variant == "cifar10":
        pgd |= {"step_size": 0.01, "num_steps": 20}
        c.train.batch_size = 256  # b': the union holds 512 images
        c.train.num_epochs = 200
        c.train.chunk_steps = 191  # an epoch of 49,000: when an adaptive share changes
    plain = {name: c.methods[name].to_dict() for name in ("pgd_at", "standard")}
    plain["pgd_at"]["attack"] = pgd
    every = plain | selections(pgd)
    c.methods = every
    c.compare = tuple(every)  # all are compared with the first
    if variant == "":
        c.data.train_limit = 576
        c.train.batch_size = 64
        c.train.num_steps = 99  # 11 epochs of 9 batches
        c.train.chunk_steps = 9
        c.train.checkpoint_every_steps = 0
        c.train.probe_every_steps = 18
        c.eval.probe_images = 100
    if variant == "smoke":
        c.compare = ("ds_50", "ds_adaptive", "before_50", "during_50")
        c.train.chunk_steps = 4
    return c


def selections(pgd: dict) -> dict:
    """The methods that select, by name and P_up in percent."""
    adversarial_training = {"name": "pgd_at", "bn_update": "adv"}
    steps = pgd["num_steps"]
    selectors = {f"ds_{p}": union(p / 100, "hard") for p in SWEEP}
    selectors |= {
        "ds_adaptive": {
            **union(1.0, "hard"),
            "sizes": (1.0, 0.7, 0.5, 0.35, 0.25, 0.15),
        },
        "random_50": union(0.5, "random"),
        "before_50": {
            "name": "before_attack",
            "keep": 0.5,
            "look": "start",
            "order": "hard",
        },
        "during_50": {
            "name": "during_attack",
            "keep": 0.5,
            "first_steps": max(steps // 5, 1),
            "order": "hard",
        },
        "after_50": {"name": "after_attack", "keep": 0.5, "order": "hard"},
    }
    return {
        name: {**base.method(adversarial_training, pgd), "select": spec}
        for name, spec in selectors.items()
    }


def union(keep: float, order: str) -> dict:
    """The paper's selection out of clean and attacked images."""
    return {
        "name": "union",
        "keep": keep,
        "error": "cross_entropy",  # log_sum_exp is equation 8 as it is printed
        "order": order,
        "count_minimum": True,
    }
