"""Harden a classifier on your own pictures: the proxy chain on an image folder.

Source   Sehwag et al., arXiv:2104.09425, from a user's images to certificates: a
         generator is trained on them, its images are labelled, filtered and mixed in.
Run      python -m jaxrobust.main --config=configs/harden.py --config.data.path=FOLDER
         FOLDER has a sub-folder for each class, or train/ and test/ with such
Expect   3 classes of CIFAR-10, 900 images: 38 minutes on 2 busy CPU cores, 57.8 clean,
         52.7 under PGD; so short a generator costs 11 points; docs/proxy.md
Variants (none)    a small ConvNet at 32x32 and a small U-Net, for a CPU
         gpu       ResNet-18 and EDM, 100 epochs, 50,000 generated images
         smoke     seconds, for tests, on digits
"""

from configs import base, generate, proxy

VARIANTS = ("", "gpu", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("harden.py", variant, VARIANTS[1:])
    if variant == "smoke":
        return proxy.get_config("smoke")
    c = proxy.get_config("proxy_pgd")
    c.title = "Hardening on own images"
    c.data.name = "folder"
    c.data.path = ""  # to be given
    c.data.image_size = 32
    c.data.val_count = 0
    c.model.mean, c.model.std = (), ()  # measured on the training images
    c.train.keep = "last"
    c.train.probe_every_steps = 0
    c.generated = base.generated("diffusion", "")
    {"": small, "gpu": gpu}[variant](c)
    return c


def small(c) -> None:
    """Minutes on a CPU for some hundred pictures; linf 4/255."""
    c.threat.eps = 4 / 255
    c.model = {
        "name": "convnet",
        "widths": (32, 64, 128),
        "norm": "group",
        "pool": "stride",
        "mean": (),
        "std": (),
    }
    c.methods.pgd_at.attack = base.pgd_train(1 / 255, 7)
    c.eval.attacks = {
        "pgd": base.pgd_eval(1 / 255, 20, "cross_entropy"),
        "cw": base.pgd_eval(1 / 255, 20, "margin"),
    }
    c.eval.probe_attack = base.pgd_eval(1 / 255, 10, "cross_entropy")
    c.data.train_limit = 900
    c.data.test_limit = 150
    c.train.num_epochs = 0
    c.train.num_steps = 150
    c.train.batch_size = 64
    c.train.chunk_steps = 25
    c.train.checkpoint_every_steps = 50
    c.optim.learning_rate = 0.05
    c.optim.schedule.warmup_percent = 5.0
    small = generate.get_config("small_cifar10").generator.to_dict()
    c.generator = small
    c.generator.denoiser.widths = (16, 32)
    c.generator.train.num_steps = 300
    c.generator.train.batch_size = 32
    c.generator.train.chunk_steps = 25
    c.generator.train.checkpoint_every_steps = 100
    c.generator.count = 300
    c.label.num_steps = 150
    c.explain.limit_per_class = 50
    c.explain.attack.num_steps = 10
    c.explain.arc.ratios = ()
    c.certify.n = 500
    c.certify.every = 5
    c.certify_at.eps = 0.25


def gpu(c) -> None:
    """The same on an accelerator."""
    c.generator = generate.get_config("cifar10").generator.to_dict()
    c.generator.train.num_steps = 50_000
    c.generator.count = 50_000
