"""What the recipes of data set distillation are put together from; no recipe."""

from configs import base

OPS = ("color", "crop", "cutout", "flip", "scale", "rotate")


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
    real, noise = (
        matching(num_networks, 0.1, "real"),
        matching(num_networks, 0.1, "noise"),
    )
    return {
        "dc": {"distance": "layerwise", "matching": noise},
        "dsa": {"distance": "layerwise", "ops": OPS, "matching": real},
        "dm": {"ops": OPS, "matching": {**real, "learning_rate": 1.0}},
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
    return {"mtt": {"trajectory": spec}, "tesla": {"trajectory": spec}}


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
