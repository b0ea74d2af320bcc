"""The keys that recipes share, with their units; each recipe fills in its own.

Every key is read once, by the code that it configures. eps and step sizes are in [0,1]
pixels. Durations say their unit: `_steps`, `_epochs` or `_percent` of a run.
"""

import copy

from ml_collections import ConfigDict


def unknown_variant(recipe: str, variant: str, known: tuple[str, ...]) -> ValueError:
    """The error for a `recipe.py:variant` that does not exist."""
    return ValueError(
        f"{recipe} has no variant {variant!r}: choose from {', '.join(known)}"
    )


def get_config() -> ConfigDict:
    """What every task on images needs."""
    c = ConfigDict()
    c.task = "train"
    c.title = ""
    c.seeds = (0, 1, 2)
    c.num_devices = 0  # 0 takes all
    c.data = {
        "name": "digits",  # digits | npz | folder | cifar_bin | tfds
        "path": "",  # file or folder, for all but digits
        "dataset": "",  # name of a tfds set
        "image_size": 0,  # resize of a folder's images, 0 keeps theirs
        "classes": (),  # class names or numbers to keep, () keeps all
        "train_limit": 0,  # images, class-balanced random choice, 0 takes all
        "test_limit": 0,
        "val_count": 0,  # images held out of training to choose checkpoints
        "seed": 0,  # of the choices above
        "provenance": "",  # replaces the source's own line on where pixels came from
    }
    c.threat = {"norm": "linf", "eps": 8 / 255}
    c.methods = {}
    c.train = {
        "num_steps": 0,  # 0: num_epochs decides
        "num_epochs": 0,
        "batch_size": 128,
        "accumulate": 1,  # slices of a batch that are attacked and learnt in turn
        "chunk_steps": 100,  # between two looks of the host
        "checkpoint_every_steps": 0,  # 0: only at the end
        "async_checkpoint": True,  # written while training goes on, False: waits
        "probe_every_steps": 0,  # accuracy on validation images, 0: never
        "keep": "last",  # last | best_val
        "ema_decay": 0.0,  # weight averaging, 0: off
        "weight_norm": "global",  # loss weights count everywhere, or within their batch
        "device_gb": 4.0,  # pools up to this size live on the device
        "shard_params": False,  # large weights lie over the devices between steps
    }
    c.profile = {  # a trace of training steps in whole chunks, docs/profiling.md
        "start_step": 0,
        "num_steps": 0,  # 0: off
    }
    c.optim = {
        "name": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "decay_norm_and_bias": True,
        "grad_clip": 0.0,  # largest gradient norm, 0: none
        "schedule": {"name": "cosine", "warmup_percent": 5.0, "final_ratio": 0.0},
    }
    c.augment = {
        "crop_pad": 0,  # pixels of zero padding before a random crop
        "flip": False,
        "cutmix_alpha": 0.0,  # 0: off
        "label_smoothing": 0.0,
        "smoothing_scope": "all",  # all | generated
    }
    c.eval = {
        "batch_size": 500,
        "attacks": {},
        "probe_images": 256,
        "probe_attack": pgd_eval(2 / 255, 10, "cross_entropy"),
    }
    return c


def generated(name: str, path: str) -> dict:
    """Where the pool comes from: "diffusion" makes one, others read files."""
    return {
        "name": name,  # diffusion | npz | folder | cifar_bin | tfds
        "path": path,
        "dataset": "",
        "image_size": 0,
        "classes": (),
        "limit": 0,  # images, class-balanced random choice, 0 takes all
        "seed": 0,
        "provenance": "",
    }


def pgd_train(step_size: float, num_steps: int, start: str = "uniform") -> dict:
    """PGD as training uses it: one start, last iterate."""
    return {
        "name": "pgd",
        "step_size": step_size,
        "num_steps": num_steps,
        "start": start,
        "num_restarts": 1,
        "keep_best": False,
    }


def pgd_eval(step_size: float, num_steps: int, loss: str) -> dict:
    """PGD as evaluation uses it: the worst iterate counts."""
    return {**pgd_train(step_size, num_steps), "keep_best": True, "loss": loss}


def method(objective: dict, attack: dict, attack_bn: str = "batch") -> dict:
    """A training method; AWP is off until `awp_gamma` is set.

    With copies of its own: what is set of one method is not set of another.
    """
    return {
        "objective": copy.deepcopy(objective),
        "attack": copy.deepcopy(attack),
        "attack_bn": attack_bn,
        "awp_gamma": 0.0,
        "awp_start_percent": 0.0,
        "select": {
            "name": "all"
        },  # all | before_attack | during_attack | ... in a step
    }


def methods(step_size: float, num_steps: int) -> dict:
    """The methods of the tables, by their names in the literature."""
    pgd = pgd_train(step_size, num_steps)
    near = pgd_train(step_size, num_steps, start="gaussian")
    nfgsm = {"name": "nfgsm", "noise_ratio": 2.0, "step_ratio": 1.0}
    fgsm_rs = {"name": "fgsm_rs", "step_ratio": 1.25}
    adversarial = {"name": "pgd_at", "bn_update": "adv"}
    return {
        "standard": method({"name": "standard"}, {"name": "none"}),
        "pgd_at": method(adversarial, pgd),
        "trades": method({"name": "trades", "beta": 6.0, "bn_update": "both"}, near),
        "mart": method({"name": "mart", "beta": 5.0, "bn_update": "both"}, pgd),
        "nfgsm": method(adversarial, nfgsm),
        "fgsm_rs": method(adversarial, fgsm_rs),
    }
