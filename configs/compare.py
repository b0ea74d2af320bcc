"""Which images to train on: ways of choosing, at equal steps and at equal time.

Every choice meets random ones of the same budget. A score, or a history of training,
comes from a network that is trained on everything first, and pays for that.

Source   el2n, grand: arXiv:2107.07075; forgetting: 1812.05159; stability: 2102.07437;
         easy_gradient (EasyCore): 2510.11018; robust_risk: Dong et al., hybrid data
         reconstruction; random_redrawn: 2305.18424; before, union: data selection for
         adversarial training.
Run      python -m jaxrobust.main --config=configs/compare.py
Expect   digits: 9 minutes on 2 slow CPU cores, no choice above random images;
         docs/selection.md has the tables
Variants (none)    1,297 digits of 8x8; cifar10 ResNet-18; small_cifar10 5,000 images
         and a small ConvNet, half an hour on 2 busy cores; smoke for tests
"""

from configs import adversarial, base

VARIANTS = ("", "cifar10", "small_cifar10", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("compare.py", variant, VARIANTS[1:])
    c = adversarial.get_config("cifar10" if "cifar10" in variant else variant)
    c.task = "compare"
    c.title = c.title.replace("Training", "Choosing training images")
    del c.compare
    pgd = c.methods.pgd_at.attack.to_dict()
    c.score = {
        "batch_size": 500,
        "attack": {**pgd, "loss": "cross_entropy"},
    }
    c.comparison = {
        "method": "pgd_at",  # how every network is trained
        "budgets": (0.3, 0.6),  # shares of the images
        "rules": ("steps", "time"),  # what is equal: steps | epochs | time
        "ranking_steps": 0,  # of the network that ranks
        "look_every_steps": 0,  # at the pool, while that network trains
        "autoattack": "",  # lite | standard | plus: a column more
        "choices": choices(),
    }
    {
        "": digits,
        "cifar10": cifar10,
        "small_cifar10": small_cifar10,
        "smoke": smoke,
    }[variant](c)
    return c


def choices() -> dict:
    """The ways to choose, by name."""
    return {
        "full": {"name": "full"},
        "random": {"name": "random"},
        "random_redrawn": {"name": "random_redrawn"},
        "el2n": score({"name": "el2n", "on": "clean"}, "hard"),
        "robust_risk": score(
            {"name": "robust_risk", "output": "softmax", "combine": "sum"}, "hard"
        ),
        "grand_mid": score({"name": "grand", "on": "adversarial"}, "mid"),
        "easy_gradient": score({"name": "input_gradient", "on": "clean"}, "easy"),
        "loss_again": score(
            {"name": "error", "on": "adversarial"}, "hard", every_epochs=5
        ),
        "forgetting": history("forgetting", "clean", "hard"),
        "stability": history("stability", "adversarial", "easy"),
        "before": {"name": "inside", "select": before()},
        "union": {"name": "inside", "select": union()},
    }


def score(spec: dict, order: str, every_epochs: int = 0) -> dict:
    """The images first in an order by a score; `every_epochs` 0 chooses once."""
    return {
        "name": "score",
        "score": spec,
        "order": order,  # hard | easy | mid | random
        "balanced": True,  # equal classes
        "every_epochs": every_epochs,
    }


def history(tracker: str, on: str, order: str) -> dict:
    """The images first in an order by how they were learnt."""
    return {
        "name": "history",
        "tracker": tracker,  # forgetting | aum | stability
        "on": on,  # clean | adversarial
        "order": order,
        "balanced": True,
    }


def before() -> dict:
    """In each batch, before the attack; the budget is the share kept."""
    return {"name": "before_attack", "look": "start", "order": "hard"}


def union() -> dict:
    """The paper's in-batch selection out of clean and attacked images."""
    return {
        "name": "union",
        "error": "cross_entropy",
        "order": "hard",
        "count_minimum": False,
    }


def digits(c) -> None:
    """Small enough for 12 choices, 2 budgets and 3 seeds, at two rules."""
    c.data.val_count = 0
    c.train.num_steps = 80
    c.train.batch_size = 64
    c.train.chunk_steps = 10
    c.train.checkpoint_every_steps = 0
    c.train.probe_every_steps = 0
    c.comparison.ranking_steps = 30
    c.comparison.look_every_steps = 10


def cifar10(c) -> None:
    """ResNet-18 on everything; a GPU for days."""
    c.train.chunk_steps = 50
    c.comparison.ranking_steps = 4000
    c.comparison.look_every_steps = 400
    c.comparison.autoattack = "lite"


def small_cifar10(c) -> None:
    """A tenth of CIFAR-10 at 16x16 pixels, a small ConvNet: 32 minutes on busy cores.

    data.path is a folder with train/<class> and test/<class>.
    """
    c.title += ", 5,000 images of 16x16"
    c.data.name = "folder"
    c.data.path = "data/cifar10"
    c.data.image_size = 16
    c.threat.eps = 4 / 255
    c.data.train_limit = 5_000
    c.data.test_limit = 500
    c.data.val_count = 0
    c.model = {
        "name": "convnet",
        "widths": (32, 32, 32),
        "norm": "batch",
        "pool": "avg",
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2471, 0.2435, 0.2616),
    }
    pgd = base.pgd_train(1.5 / 255, 5)
    c.methods.pgd_at.attack = pgd
    c.score.attack = {**pgd, "loss": "cross_entropy"}
    c.eval.attacks = {
        "pgd": base.pgd_eval(1 / 255, 20, "cross_entropy"),
        "cw": base.pgd_eval(1 / 255, 20, "margin"),
    }
    c.augment.crop_pad = 1
    c.optim.learning_rate = 0.05
    c.optim.schedule = {"name": "cosine", "warmup_percent": 5.0, "final_ratio": 0.0}
    c.train.keep = "last"
    c.train.num_epochs = 0
    c.train.num_steps = 150
    c.train.batch_size = 64
    c.train.chunk_steps = 10
    c.train.checkpoint_every_steps = 0
    c.train.probe_every_steps = 0
    c.comparison.ranking_steps = 40
    for slow in ("forgetting", "grand_mid", "stability"):
        del c.comparison.choices[slow]


def smoke(c) -> None:
    """Every kind of choice once, on a few images."""
    c.data.val_count = 0
    c.train.probe_every_steps = 0
    c.score.batch_size = 50
    c.comparison.budgets = (0.4,)
    c.comparison.ranking_steps = 8
    c.comparison.look_every_steps = 4
    kept = ("full", "random", "random_redrawn", "grand_mid", "loss_again")
    kept += ("stability", "before")
    every = choices()
    c.comparison.choices = {name: every[name] for name in kept}
    c.comparison.choices.loss_again.every_epochs = 2
