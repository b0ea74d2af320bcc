"""Hybrid data reconstruction: a training set rebuilt from original and generated
images.

Source   Dong et al., Towards Adversarially Robust Data-Efficient Learning with
         Generated Data, table I (CIFAR-10, ResNet-18, linf eps 8/255; natural / PGD-20
         / CW):
         PGD-AT  original 83.80 / 51.40 / 50.17   hybrid 83.76 / 52.44 / 51.69
         TRADES  original 82.45 / 52.21 / 50.29   hybrid 82.53 / 53.21 / 50.91
         N-FGSM  original 80.18 / 48.17 / 46.96   hybrid 80.23 / 49.72 / 48.31
Run      python -m jaxrobust.main --config=configs/hybrid.py
Expect   digits, 3 seeds: 3 to 7 minutes on 2 CPU cores; PGD-AT 68% under PGD-20,
         standard training 13%; docs/hybrid.md has the table
Variants (none)    digits, 8x8, embedded: a laptop CPU in minutes
         cifar10   the paper's setting: accelerators, hours
         smoke     seconds, for tests: the numbers mean nothing
"""

from configs import base

VARIANTS = ("", "cifar10", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("hybrid.py", variant, VARIANTS[1:])
    config = base.get_config()
    config.task = "reconstruct"
    config.reconstruct = {
        "method": "pgd_at",  # that trains the networks which rank
        "compare": ("pgd_at",),  # methods of the final table
        "rounds": 2,
        "round_steps": 300,
        "sample_fraction": 0.25,  # generated images that join a round / original size
        "order": "hard",  # hard | easy | mid | random
        "balanced": False,  # equal classes; the paper does not balance
        "random_baseline": True,
    }
    config.score = {
        "ranking": {"name": "robust_risk", "output": "softmax", "combine": "sum"},
        "batch_size": 512,
        "attack": {},
    }
    {"": digits, "cifar10": cifar10, "smoke": smoke}[variant](config)
    return config


def digits(c) -> None:
    """300 original digits of 8x8 pixels, linf eps 0.15, a pool of our own generator."""
    c.title = "Hybrid data reconstruction on digits"
    c.data.train_limit = 300
    c.threat = {"norm": "linf", "eps": 0.15}
    c.model = {
        "name": "convnet",
        "widths": (16, 32, 64),
        "norm": "group",
        "pool": "stride",
        "mean": (),
        "std": (),
    }
    c.methods = base.methods(step_size=0.0375, num_steps=10)
    c.train.num_steps = 400
    c.train.checkpoint_every_steps = 200
    c.optim.learning_rate = 0.1
    c.eval.attacks = {
        "pgd": base.pgd_eval(0.0375, 20, "cross_entropy"),
        "cw": base.pgd_eval(0.0375, 20, "margin"),
    }
    c.eval.probe_attack = base.pgd_eval(0.0375, 10, "cross_entropy")
    c.score.attack = base.pgd_eval(0.0375, 10, "cross_entropy")
    c.generated = base.generated("diffusion", "")
    c.generator = small_generator()


def small_generator() -> dict:
    """A class-conditional diffusion model that two CPU cores train in half a minute."""
    return {
        "denoiser": {"name": "mlp", "width": 96, "num_blocks": 2},
        "labels": {  # what the network is told of the classes
            "conditional": True,  # False: shards without labels, to be labelled later
            "drop_percent": 0.0,  # labels hidden in training; guidance needs some
            "guidance": 1.0,  # 1: off; above: more typical of the class, less varied
        },
        "schedule": "cosine",
        "prediction": "v",
        "optim": {
            "name": "adamw",
            "learning_rate": 6e-3,
            "weight_decay": 0.0,
            "grad_clip": 1.0,
            "schedule": {"name": "cosine", "warmup_percent": 5.0, "final_ratio": 0.0},
        },
        "train": {
            "num_steps": 600,
            "batch_size": 128,
            "chunk_steps": 100,
            "checkpoint_every_steps": 0,
            "ema_decay": 0.99,
        },
        "sampler": "heun",
        "sampler_steps": 12,
        "count": 4096,
        "shard_size": 1024,
        "seed": 0,
    }


def cifar10(c) -> None:
    """The paper's setting; 50,000 original images and a pool of 1M from files.

    Expects data.path with the CIFAR-10 binaries and generated.path with an image/label
    npz such as cifar10_ddpm.npz; `--config.generated.name=diffusion` trains a
    generator.
    """
    c.title = "Hybrid data reconstruction on CIFAR-10"
    c.data.name = "cifar_bin"
    c.data.path = "data/cifar-10-batches-bin"
    c.data.val_count = 1000
    c.model = {
        "name": "resnet18",
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2471, 0.2435, 0.2616),
        "dtype": "float32",  # or bfloat16, on accelerators
        "remat": False,  # activations of blocks are computed again on the way back
        "bn_groups": 1,  # parts of a batch with statistics of their own: devices
    }
    c.methods = base.methods(step_size=2 / 255, num_steps=10)
    c.train.num_epochs = 100
    c.train.chunk_steps = 50
    c.train.checkpoint_every_steps = 1000
    c.train.probe_every_steps = 1000
    c.train.keep = "best_val"
    c.optim.schedule = {
        "name": "piecewise",
        "drop_percents": (75.0, 90.0),
        "drop_ratio": 0.1,
    }
    c.augment.crop_pad = 4
    c.augment.flip = True
    c.eval.attacks = {
        "pgd": base.pgd_eval(2 / 255, 20, "cross_entropy"),
        "cw": base.pgd_eval(2 / 255, 20, "margin"),
    }
    c.score.attack = base.pgd_eval(2 / 255, 10, "cross_entropy")
    c.reconstruct.compare = ("pgd_at", "trades", "nfgsm")
    c.reconstruct.round_steps = 11_700
    c.generated = base.generated("npz", "data/cifar10_ddpm.npz")
    c.generator = image_generator()


def image_generator() -> dict:
    """A U-Net of the DDPM kind for 32x32 images: a GPU for a day, or a small try."""
    generator = small_generator()
    generator["denoiser"] = {
        "name": "unet",
        "widths": (128, 256, 256),
        "num_blocks": 2,
        "attention": (1,),
    }
    generator["optim"]["learning_rate"] = 2e-4
    generator["train"] = {
        "num_steps": 200_000,
        "batch_size": 128,
        "chunk_steps": 100,
        "checkpoint_every_steps": 5_000,
        "ema_decay": 0.9999,
    }
    generator["count"] = 100_000
    return generator


def smoke(c) -> None:
    """Everything once, at a size where only the plumbing shows."""
    digits(c)
    c.title = "Smoke test"
    c.seeds = (0,)
    c.data.train_limit = 100
    c.data.test_limit = 50
    c.model.widths = (8, 8)
    c.train.num_steps = 8
    c.train.batch_size = 16
    c.train.chunk_steps = 4
    c.train.checkpoint_every_steps = 4
    c.eval.batch_size = 50
    c.reconstruct.round_steps = 4
    c.score.batch_size = 64
    c.generator.denoiser = {"name": "mlp", "width": 16, "num_blocks": 1}
    c.generator.train.num_steps = 8
    c.generator.train.batch_size = 16
    c.generator.train.chunk_steps = 4
    c.generator.train.checkpoint_every_steps = 4
    c.generator.sampler_steps = 3
    c.generator.count = 128
    c.generator.shard_size = 64
