"""Train on n generated images and nothing else: how far does that carry?

Source   Sehwag et al., arXiv:2104.09425, figures 3 and 4: 2K to 10M images of a
         StyleGAN, ResNet-18, PGD-4, tested on 100K held-out images and on CIFAR-10;
         table 1: 1M images alone give 84.5 / 51.8 (StyleGAN) and 85.4 / 73.6 (DDPM;
         implausible at 8/255)
Run      python -m jaxrobust.main --config=configs/scaling.py
Variants (none)    digits and a generator of our own, 128 to 2,048 images
         cifar10   10 classes, 2,000 to 1M images of files
         cifar2    automobile against truck, as in figure 3
         smoke     seconds, for tests
"""

from configs import base, hybrid

VARIANTS = ("", "cifar10", "cifar2", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("scaling.py", variant, VARIANTS[1:])
    c = hybrid.get_config("cifar10" if variant == "cifar2" else variant)
    c.title = c.title.replace("Hybrid data reconstruction", "Number of images, study")
    c.task = "scaling"
    del c.reconstruct, c.score
    c.compare = ("standard", "pgd_at")
    c.scaling = {
        "sizes": (128, 512, 2048),  # nested
        "held_out": 500,  # other images of the pool, to test on
    }
    if variant.startswith("cifar"):
        c.scaling.sizes = (2_000, 10_000, 100_000, 900_000)
        c.scaling.held_out = 100_000
        for name in ("pgd_at", "mart"):
            c.methods[name].attack.num_steps = 4
    if variant == "cifar2":
        c.data.classes = c.generated.classes = ("automobile", "truck")
        c.scaling.sizes = (2_000, 10_000, 100_000, 180_000)
        c.scaling.held_out = 20_000
    if variant == "smoke":
        c.scaling.sizes = (32, 64)
        c.scaling.held_out = 32
    return c
