"""Proxy distributions: generated images in every batch, labelled, filtered, explained.

Source   Sehwag et al., arXiv:2104.09425. CIFAR-10, clean / AutoAttack at linf 8/255,
         without and with images of a DDPM: ResNet-18 82.0 / 48.7 and 84.4 / 54.8,
         WRN-34-10 84.9 / 53.1 and 85.8 / 59.1; filtering (two labelers) 84.2 / 54.7 to
         84.4 / 54.8. Certified at linf 2/255: 77.9 / 58.6 and 81.1 / 62.5.
         One user's rerun of the released recipe gave 53.89 (issue 1 of its repository).
Run      python -m jaxrobust.main --config=configs/proxy.py
Expect   digits: 4 minutes on 2 slow CPU cores; half generated images +1.7 points
         under PGD, +3 certified; docs/proxy.md
Variants (none)       300 digits of 8x8 and a generator of our own: CPU minutes
         proxy_pgd    CIFAR-10, ResNet-18, half of each batch of 256 generated
         dm_gowal     TRADES on WRN-28-10, 70% generated: clean / AA 85.97 / 60.73
         rebuffi_ddpm the same with CutMix (2103.01946): 87.33 / 60.75
         wang_edm     EDM's images and beta 5 (2302.04638): 92.44 / 67.31 with 20M
         smoke        seconds, for tests
"""

from configs import base, hybrid, smoothing

VARIANTS = ("", "proxy_pgd", "dm_gowal", "rebuffi_ddpm", "wang_edm", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("proxy.py", variant, VARIANTS[1:])
    c = hybrid.get_config(variant if variant in ("", "smoke") else "cifar10")
    c.title = c.title.replace("Hybrid data reconstruction", "Proxy distributions")
    c.task = "proxy"
    del c.reconstruct, c.score
    chain(c)
    {
        "": digits,
        "smoke": smoke,
        "proxy_pgd": proxy_pgd,
        "dm_gowal": dm_gowal,
        "rebuffi_ddpm": rebuffi_ddpm,
        "wang_edm": wang_edm,
    }[variant](c)
    return c


def chain(c) -> None:
    """What follows generation: label, filter, mix, explain, certify."""
    c.methods = {**c.methods.to_dict(), **smoothing.methods(sigma=0.25)}
    c.compare = ("pgd_at", "stability")
    c.label = {
        "use": "given",  # the generator's labels, or those "predicted" by a labeler
        "filter": {"name": "two_labelers", "threshold": 0.9},  # | confidence | none
        "batch_size": 500,
        "checkpoint": "",  # a finished run whose networks label; "" trains some here:
        "networks": (),  # of that run, () takes all
        "seeds": (0,),
        "method": "standard",
        "count": 2,
        "num_steps": 200,
    }
    c.mix = {
        "generated_percent": 50.0,  # of every batch
        "weighting": "count",  # all images alike | gamma: real_weight on the real ones
        "real_weight": 0.5,
    }
    c.explain = {
        "limit_per_class": 1000,
        "attack": {  # its smallest eps stands for the distance to the boundary
            "name": "pgd",
            "step_ratio": 0.1,
            "num_steps": 30,
            "num_restarts": 1,
            "start": "uniform",
            "keep_best": True,
            "loss": "margin",
        },
        "num_halvings": 8,
        "largest_ratio": 8.0,  # in units of threat.eps
        "seed": 0,
        "arc": {  # networks that tell real from generated, attacked
            "ratios": (0.0, 0.5, 1.0, 2.0),  # of threat.eps, () for none
            "method": "pgd_at",
            "num_steps": 1000,
            "seed": 0,
        },
    }
    c.certify = smoothing.get_config().certify
    c.certify_at = {"norm": "l2", "eps": 0.5}  # the ball of certified_acc


def digits(c) -> None:
    """Half of hybrid.py's steps; certificates for every fifth test image."""
    c.train.num_steps = 200
    c.explain.attack.num_steps = 20
    c.explain.arc.ratios = ()
    c.certify.every = 5
    c.explain.limit_per_class = 50


def smoke(c) -> None:
    """Everything once."""
    c.label.num_steps = 8
    c.explain.limit_per_class = 5
    c.explain.attack.num_steps = 2
    c.explain.num_halvings = 2
    c.explain.arc.ratios = (0.5, 1.0)
    c.explain.arc.num_steps = 4
    smoothing.smoke(c)


def proxy_pgd(c) -> None:
    """The paper's own recipe; its batch of 128 + 128 and a baseline of 256."""
    c.train.batch_size = 256
    c.optim.schedule = {"name": "cosine", "warmup_percent": 0.0, "final_ratio": 0.01}
    c.certify.n = 10_000


def dm_gowal(c) -> None:
    """DeepMind's: 400 epochs of 1,024 images, averaged weights, smoothed labels."""
    c.compare = ("trades",)
    c.model.name = "wide_resnet"
    c.model.depth, c.model.width = 28, 10
    c.model.activation, c.model.momentum, c.model.padding = "swish", 0.99, "end"
    c.augment.label_smoothing = 0.1
    c.augment.smoothing_scope = "generated"
    c.train.batch_size = 1024
    c.train.num_epochs = 400
    c.train.ema_decay = 0.995
    c.optim.learning_rate = 0.4
    c.optim.schedule = {"name": "cosine", "warmup_percent": 2.5, "final_ratio": 0.0}
    c.mix.generated_percent = 70.0
    c.label.filter = {"name": "none"}
    c.label.count = 0


def rebuffi_ddpm(c) -> None:
    """Rebuffi et al.: with CutMix, of which averaged weights are the point."""
    dm_gowal(c)
    c.augment.cutmix_alpha = 1.0


def wang_edm(c) -> None:
    """Wang et al.: EDM's images, one-cycle rate, beta 5."""
    dm_gowal(c)
    c.train.batch_size = 512
    c.optim.learning_rate = 0.2
    c.methods.trades.objective.beta = 5.0
    c.augment.smoothing_scope = "all"
    c.generated.path = "data/1m.npz"
