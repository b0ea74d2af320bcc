"""What the recipes of data set distillation are put together from; no recipe."""

import copy

from configs import base

OPS = ("color", "crop", "cutout", "flip", "scale", "rotate")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def student() -> dict:
    """How networks learn from a few images; durations and labels as on CIFAR-10."""
    return {
        "num_steps": 400,
        "batch_size": 128,
        "chunk_steps": 100,
        "optim": {
            "name": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "grad_clip": 0.0,
            "schedule": {"name": "cosine", "warmup_percent": 0.0, "final_ratio": 0.0},
        },
        "temperature": 30.0,
        "t_squared": False,  # whether the loss is multiplied by temperature^2
        "mix": "mixup",  # none | mixup | cutmix, with soft labels only
        "alpha": 0.8,
        "least_scale": 1.0,  # of a random resized crop, 1: none
        "ratio": (3 / 4, 4 / 3),
        "crop_pad": 0,
        "flip": False,
    }


def sre2l(r_bn: float) -> dict:
    """Recovery as on CIFAR-10."""
    return {
        "num_steps": 1000,
        "chunk_steps": 200,
        "learning_rate": 0.25,  # in units of the pixels' std
        "r_bn": r_bn,  # weight of the BatchNorm statistics
        "first_weight": 10.0,  # of the first layer among them
        "images_per_class": 1,  # optimised together, as published
        "classes_per_chunk": 100,
        "view": {
            "least_scale": 1.0,  # of multi-crop, 1: none
            "milestone": 0.0,  # share of the steps in which it shrinks to that (CDA)
            "ratio": (3 / 4, 4 / 3),
            "flip": False,
            "jitter": (0, 4),  # pixels
        },
    }


def matching(num_networks: int, learning_rate: float, start: str) -> dict:
    """The outer loop of DC, DSA and DM."""
    return {
        "num_networks": num_networks,  # fresh ones, one after the other
        "chunk_steps": 10,
        "learning_rate": learning_rate,  # for pixels divided by their std
        "momentum": 0.5,
        "start": start,  # noise | real
        "real_batch": 256,  # of each class
        "clip": True,
        "network": {
            "batch_size": 256,
            "optim": plain_sgd(),
        },
    }


def matchings(num_networks: int) -> dict:
    """DC, DSA and DM with the published settings of CIFAR-10."""
    noise = matching(num_networks, 0.1, "noise")
    real = matching(num_networks, 0.1, "real")
    faster = matching(num_networks, 1.0, "real")
    return {
        "dc": {"distance": "layerwise", "matching": noise},
        "dsa": {"distance": "layerwise", "ops": OPS, "matching": real},
        "dm": {"ops": OPS, "matching": faster},
    }


def trajectories() -> dict:
    """MTT and TESLA on CIFAR-10 at ipc 10 without ZCA, as far as it is known."""
    spec = {
        "num_steps": 5000,
        "chunk_steps": 50,
        "learning_rate": 1000.0,  # for pixels divided by their std
        "momentum": 0.5,
        "start": "real",
        "clip": True,
        "inner_steps": 30,
        "batch_size": 256,
        "first_rate": 0.01,  # the student's step size, which is learnt
        "rate_learning_rate": 1e-5,
        "least_rate": 1e-4,
        "segment_epochs": 2,
        "max_start": 20,  # epochs of an expert that segments begin at
        "ops": OPS,
        "experts": {
            "count": 100,
            "epochs": 50,
            "batch_size": 256,
            "optim": plain_sgd(),
        },
    }
    return {"mtt": {"trajectory": spec}, "tesla": {"trajectory": copy.deepcopy(spec)}}


def plain_sgd() -> dict:
    """SGD at 0.01 and nothing else: inner networks and experts."""
    return {
        "name": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "decay_norm_and_bias": True,
        "grad_clip": 0.0,
        "schedule": {"name": "constant"},
    }


def curvature(
    weight: float, h: float, variant: str, direction: str = "gradient"
) -> dict:
    """GUARD's objective on real images; units in docs/guard.md."""
    return base.method(
        {
            "name": "curvature",
            "curv_weight": weight,
            "curv_h": h,  # l2, in [0,1] pixels
            "variant": variant,  # squared | norm | loss_difference
            "direction": direction,  # gradient | sign
            "term_bn": "running",  # running | batch
        },
        {"name": "none"},
    )


def real_methods(guard: dict, step_size: float, num_steps: int) -> dict:
    """How real images are learnt: plainly, with GUARD, attacked."""
    known = base.methods(step_size, num_steps)
    return {"standard": known["standard"], "guard": guard, "pgd_at": known["pgd_at"]}


def arms(how: str, *real: str) -> dict:
    """`how` on its own, and with the real images learnt by each of `real`."""
    plain = {how: {"method": how, "real": "standard"}}
    return plain | {f"{how}_{name}": {"method": how, "real": name} for name in real}


def attacks(queries: int) -> dict:
    """PGD-100 on cross-entropy and on the margin (CW), MIM, Square; steps in units of
    eps, so that every radius gets the same."""
    pgd = {
        "name": "pgd",
        "step_ratio": 0.05,
        "num_steps": 100,
        "start": "uniform",
        "num_restarts": 1,
        "keep_best": True,
    }
    return {
        "pgd": {**pgd, "loss": "cross_entropy"},
        "cw": {**pgd, "loss": "margin"},
        "mim": {
            "name": "mim",
            "loss": "cross_entropy",
            "step_ratio": 0.1,
            "num_steps": 20,
            "decay": 1.0,
            "keep_best": True,
        },
        "square": {
            "name": "square",
            "num_queries": queries,
            "num_restarts": 1,
            "p_init": 0.8,
            "rescale": True,
        },
    }


def dc_student(c, num_steps: int) -> None:
    """Hard labels and plain SGD, the recipe of DC's evaluation."""
    c.student.num_steps = num_steps
    c.student.batch_size = 256
    c.student.optim = {
        "name": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "decay_norm_and_bias": True,
        "grad_clip": 0.0,
        "schedule": {"name": "piecewise", "drop_percents": (50.0,), "drop_ratio": 0.1},
    }


def other_convnet(widths: tuple[int, ...], pool: str, head: str, **norm) -> dict:
    """A ConvNet that differs from the run's own in all but its kernels."""
    return {
        "name": "convnet",
        "widths": widths,
        "norm": "group",
        "pool": pool,
        "head": head,
        **(norm or {"mean": (), "std": ()}),
    }


def papers(c) -> None:
    """Five networks on one set, the whole test split, radii from 1/255 to 8/255."""
    c.seeds = (0, 1, 2, 3, 4)
    c.threat.eps = 1 / 255
    c.distill.eps = (2 / 255, 4 / 255, 8 / 255)
    c.distill.autoattack = {"version": "standard", "images": 1000}
    c.distill.ipc = (1, 10, 50)
    c.distill.references = ("pgd_at",)
    c.eval.attacks = attacks(queries=5000)
    c.augment.flip = True


def imagenet_like(c, guard: dict, epochs: int, r_bn: float, rate: float) -> None:
    """ResNet-18 at 224 pixels out of a folder; data.path is to be given."""
    papers(c)
    c.data.name = "folder"
    c.data.path = "data/imagenet"
    c.data.image_size = 224
    c.model = {"name": "resnet18", **IMAGENET}
    c.methods = real_methods(guard, 0.25 / 255, 10)
    c.train.num_epochs = epochs
    c.train.batch_size = 32
    c.train.checkpoint_every_steps = 5_000
    c.optim.learning_rate = 0.025
    c.optim.nesterov = False
    c.optim.weight_decay = 1e-4
    c.eval.batch_size = 100
    c.distill.arms = arms("sre2l", "guard", "pgd_at")
    c.distill.ipc = (10, 50)
    recovery = sre2l(r_bn)
    recovery.update(num_steps=2000, chunk_steps=100, learning_rate=rate)
    recovery["view"].update(least_scale=0.08, flip=True, jitter=(0, 32))
    c.distill.methods = {"sre2l": recovery}
    c.student.batch_size = 100
    c.student.temperature = 20.0
    c.student.mix, c.student.alpha = "cutmix", 1.0
    c.student.least_scale = 0.08
    c.student.flip = True
