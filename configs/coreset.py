"""Adversarial coresets, chosen anew as training goes on, against random images.

Source   Adversarial Coreset Selection (arXiv:2112.00378, 2209.05785), clean / robust
         accuracy and speed-up, half of the images unless said:
         TRADES CIFAR-10    CRAIG 83.03 / 41.45  GradMatch 83.07 / 41.52  1.92x, 1.93x
         PGD linf CIFAR-10  CRAIG 80.37 / 45.07  GradMatch 80.67 / 45.23  1.98x
         PGD l2 SVHN        CRAIG 95.42 / 49.68  GradMatch 95.57 / 50.41  2.99x, 3.10x
         There is no row of random images that are drawn again; here there is.
Run      python -m jaxrobust.main --config=configs/coreset.py
Expect   digits: 16 minutes on 2 slow CPU cores, speed-up 1.9, coresets no better than
         random images that are drawn again; docs/coreset.md
Variants (none)    400 digits of 8x8; sweep shares of the images; nfgsm single-step
         training; small_cifar10 1,000 images of 16x16; smoke for tests
         cifar10_linf, cifar10_trades, svhn_l2, cifar10_pat the paper's settings as far
         as they are known; cifar10_nfgsm its third takeaway
"""

from configs import base, compare

VARIANTS = (
    "",
    "sweep",
    "nfgsm",
    "cifar10_linf",
    "cifar10_trades",
    "cifar10_nfgsm",
    "cifar10_pat",
    "svhn_l2",
    "small_cifar10",
    "smoke",
)


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("coreset.py", variant, VARIANTS[1:])
    paper = variant.startswith(("cifar10", "svhn"))
    known = variant if variant in ("small_cifar10", "smoke") else ""
    c = compare.get_config("cifar10" if paper else known)
    c.title = c.title.replace("Choosing training images", "Adversarial coresets")
    c.comparison.budgets = (0.5,)
    c.comparison.rules = ("steps", "epochs", "time")
    del c.comparison.choices
    c.comparison.choices = choices()
    if paper:
        papers(c, *variant.split("_"))
    else:
        {"small_cifar10": small_cifar10, "smoke": smoke}.get(variant, digits)(c)
    if variant == "nfgsm":
        c.comparison.method = "nfgsm"
    if variant == "sweep":
        sweep(c)
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


def digits(c) -> None:
    """120 passes over 400 images, the paper's number, so that its arithmetic holds."""
    c.data.train_limit = 400
    c.score.batch_size = 400
    long_run(c, batch_size=50, epochs=120, images=400)
    keep(c, "full", "random", "random_redrawn", "craig", "gradmatch")


def small_cifar10(c) -> None:
    """12 passes over 1,000 images of 16x16; see compare.py."""
    c.title = c.title.replace("5,000 images", "1,000 images")
    c.data.train_limit = 1_000
    c.data.val_count = 200
    long_run(c, batch_size=50, epochs=12, images=1_000)
    keep(c, "full", "random", "random_redrawn", "craig", "gradmatch")


def long_run(c, batch_size: int, epochs: int, images: int) -> None:
    """Whole periods T of a sixth of the run, each of 4 chunks of steps."""
    c.train.batch_size = batch_size
    c.train.num_steps = epochs * images // batch_size
    c.train.chunk_steps = c.train.num_steps // 24


def smoke(c) -> None:
    """A coreset of every kind, in seconds."""
    c.data.val_count = 20
    c.train.num_steps = 24
    c.train.checkpoint_every_steps = 6
    c.train.chunk_steps = 2
    c.comparison.rules = ("epochs",)
    keep(c, "full", "random", "craig", "gradmatch_batch", "glister")


def sweep(c) -> None:
    """Robust error against speed-up: shares of the images at equal epochs."""
    c.comparison.budgets = (0.2, 0.4, 0.6)  # the least holds more than a batch
    c.comparison.rules = ("epochs",)
    keep(c, "full", "random", "random_redrawn", "craig", "gradmatch")


def keep(c, *names: str) -> None:
    """Only these choices."""
    for name in set(c.comparison.choices) - set(names):
        del c.comparison.choices[name]


def papers(c, dataset: str, objective: str) -> None:
    """ResNet-18, batch 128: 120 epochs of PGD-AT, 100 of TRADES, 30 of N-FGSM.

    svhn: data.name=folder, npz or tfds; eps 128/255 is a choice, none is stated.
    """
    c.data.val_count = 500 if dataset == "cifar10" else 7_325
    c.train.num_epochs = {"trades": 100, "nfgsm": 30}.get(objective, 120)
    c.comparison.choices.gradmatch_batch.algorithm.batch_size = 128
    if objective == "pat":
        pat(c)
        return
    if objective == "trades":
        c.comparison.method = "trades"
        c.optim.weight_decay = 2e-4
        return
    c.optim.learning_rate = 0.01
    c.optim.schedule.drop_percents = (66.7, 83.3)
    if objective == "nfgsm":
        c.comparison.method = "nfgsm"
        c.optim.learning_rate = 0.1
    if objective == "linf":
        for name in ("pgd_at", "mart"):
            c.methods[name].attack.step_size = 1.25 / 255
    if objective == "l2":
        svhn_l2(c)


def pat(c) -> None:
    """Perceptual training, 100 epochs; methods.pat.attack.network.path is a run or the
    AlexNet of Laidlaw et al. for CIFAR-10. docs/perceptual.md has what differs."""
    network = {
        "path": "",  # a finished run, or a .pt or .safetensors file
        "name": "",  # in a run: the row of its table, "" for the first
        "seed": 0,
        "mean": (0.485, 0.456, 0.406),  # of a file, () for what it says
        "std": (0.229, 0.224, 0.225),
    }
    attack = {
        "name": "fast_lagrangian",
        "loss": "margin",
        "bound": 0.5,  # soft, in LPIPS
        "num_steps": 10,
        "attack_wrong": False,  # whether images that are misread anyway are attacked
        "network": network,
    }
    objective = {"name": "pgd_at", "bn_update": "adv"}
    c.methods.pat = base.method(objective, attack, attack_bn="running")
    c.comparison.method = "pat"
    c.comparison.choices.gradmatch_batch.algorithm.batch_size = 50
    c.data.val_count = 5_000
    c.train.num_epochs = 100
    c.train.batch_size = 50
    c.optim.weight_decay = 2e-4
    c.optim.schedule.drop_percents = (45.0, 60.0, 80.0)


def svhn_l2(c) -> None:
    """Street-view house numbers, l2: no flips of digits."""
    c.title = c.title.replace("CIFAR-10", "SVHN")
    c.data.name = "tfds"
    c.data.dataset = "svhn_cropped"
    c.model.mean = c.model.std = (0.5, 0.5, 0.5)
    c.threat.norm = "l2"
    c.threat.eps = 128 / 255
    for name in ("pgd_at", "mart"):
        c.methods[name].attack.step_size = 32 / 255
    c.score.attack.step_size = 32 / 255
    c.augment.flip = False
    c.eval.attacks = {
        "pgd": base.pgd_eval(32 / 255, 20, "cross_entropy"),
        "cw": base.pgd_eval(32 / 255, 20, "margin"),
    }
