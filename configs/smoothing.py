"""Certified robustness by randomized smoothing: train on noise, certify test images.

Source   Cohen et al., arXiv:1902.02918; Carmon et al., RST, 1905.13736, section 5.2;
         Sehwag et al., 2104.09425, figure 2 and table 4. CIFAR-10, sigma 0.25,
         clean / certified at linf 2/255 (l2 111/255):
         RST 77.9 / 58.6; with 500K real images 80.7 / 63.8
         with images of a proxy distribution, ResNet-18 81.1 / 62.5, WRN-28-10
         83.5 / 65.3: those images are not part of this recipe
Run      python -m jaxrobust.main --config=configs/smoothing.py
         of an existing run, --config.checkpoint=runs/adversarial
Expect   digits, 3 seeds: 4 minutes on 2 busy CPU cores; certified within l2 0.5:
         standard 22%, gaussian 57%, stability 60%; docs/certify.md has the table
Variants (none)    1,297 digits of 8x8; cifar10 the setting of RST; smoke for tests
"""

from configs import adversarial, base

VARIANTS = ("", "cifar10", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("smoothing.py", variant, VARIANTS[1:])
    c = adversarial.get_config(variant)
    c.task = "certify"
    c.title = c.title.replace("Training", "Certified robustness")
    c.compare = ("standard", "gaussian", "stability")
    del c.methods
    c.methods = methods(sigma=0.25)
    c.threat = {"norm": "l2", "eps": 0.5}  # certified_acc is read at this ball
    c.eval.attacks = {}
    c.data.val_count = 0
    c.train.keep = "last"
    c.train.probe_every_steps = 0
    c.checkpoint = ""  # "": train; else a run directory, a .pt or .safetensors file
    c.networks = ()  # of that run, () takes all
    c.dtype = ""  # float32 | bfloat16 of its networks; "" as trained
    c.images = {**base.get_config().data, "name": ""}  # "": the test images of the run
    c.preprocessing = {"mean": (), "std": ()}  # of a .pt file whose net has none inside
    c.certify = {
        "sigma": 0.25,  # std of the noise, in [0,1] pixels
        "n0": 100,  # draws that select the class
        "n": 1000,  # draws that estimate its probability
        "alpha": 0.001,  # chance that one certificate is wrong
        "rho": 0.001,  # chance that sure_certified_acc is
        "noise_batch": 1000,  # noisy copies that go through the network at once
        "group_images": 20,  # that share such a batch; written together
        "every": 1,  # certify each image, or every so many
        "noise_seed": 0,
        "radii": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),  # of the report's table, l2
    }
    if variant == "cifar10":
        cifar10(c)
    if variant == "smoke":
        smoke(c)
    return c


def methods(sigma: float) -> dict:
    """Without noise, with noise on every image, and with the clean image beside it."""
    noise = {"name": "gaussian", "sigma": sigma, "clamp": False}
    clamped = {**noise, "clamp": True}  # in training only, as RST does
    stability = {"name": "stability", "beta": 6.0, "bn_update": "both"}
    return {
        "standard": base.method({"name": "standard"}, {"name": "none"}),
        "gaussian": base.method({"name": "pgd_at", "bn_update": "adv"}, noise),
        "stability": base.method(stability, clamped),
    }


def cifar10(c) -> None:
    """ResNet-18 without normalisation, 100 epochs; linf 2/255 is l2 111/255."""
    c.threat = {"norm": "linf", "eps": 2 / 255}
    c.model.mean, c.model.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    c.optim.schedule = {"name": "cosine", "warmup_percent": 0.0, "final_ratio": 0.0}
    c.certify.n = 10_000
    c.certify.group_images = 10
    c.certify.radii = (0.0, 0.1, 0.2, 0.3, 111 / 255, 0.5, 0.6, 0.75)


def smoke(c) -> None:
    """Everything once, on a few images: the certificates reach nowhere."""
    c.certify.n0 = 10
    c.certify.n = 40
    c.certify.noise_batch = 50
    c.certify.group_images = 5
    c.certify.every = 5
