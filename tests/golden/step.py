"""One training step for every objective on a tiny ConvNet: its numbers to 6 digits."""

import json
from functools import cache
from pathlib import Path

import jax
import numpy as np

from jaxrobust import optim, registry
from jaxrobust.attacks import ATTACKS
from jaxrobust.augment import make_augment
from jaxrobust.models import MODELS
from jaxrobust.objectives import OBJECTIVES
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import create_state
from jaxrobust.threat import make_threat
from jaxrobust.train_step import StepOptions, make_train_step
from tests.helpers import make_batch, variables_of

FILE = Path(__file__).parent / "steps.json"
SPECS = {
    "curvature": {
        "curv_weight": 10.0,
        "curv_h": 0.5,
        "variant": "squared",
        "direction": "gradient",
        "term_bn": "running",
    },
    "gradient_norm": {"grad_weight": 1.0, "variant": "norm", "term_bn": "running"},
    "mart": {"beta": 5.0, "bn_update": "adv"},
    "pgd_at": {"bn_update": "adv"},
    "stability": {"beta": 6.0, "bn_update": "both"},
    "standard": {},
    "trades": {"beta": 6.0, "bn_update": "both"},
}
PGD = {
    "name": "pgd",
    "step_size": 0.03,
    "num_steps": 2,
    "start": "gaussian",
    "num_restarts": 1,
    "keep_best": False,
}
SGD = {
    "name": "sgd",
    "learning_rate": 0.1,
    "schedule": {"name": "constant"},
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "decay_norm_and_bias": True,
    "grad_clip": 0.0,
}
AUGMENT = {
    "crop_pad": 0,
    "flip": True,
    "cutmix_alpha": 0.0,
    "label_smoothing": 0.1,
    "smoothing_scope": "all",
    "num_classes": 3,
    "num_original": 8,
}


@cache
def golden(name: str) -> dict[str, float]:
    """The numbers of one step of objective `name`, among them a look into the
    weights."""
    model = MODELS["convnet"](3, (0.3,), (0.3,), widths=(4,), norm="batch")
    tx = optim.make_optimiser(SGD, total_steps=10)
    threat = make_threat("linf", 0.1)
    objective = registry.build("objective", OBJECTIVES, {"name": name, **SPECS[name]})
    attack = registry.build("attack", ATTACKS, PGD, threat=threat, loss=objective.inner)
    options = StepOptions("batch", 0.99, 0.0, 0, "batch")
    augment = make_augment(**AUGMENT)
    step = make_train_step(model, tx, objective, attack, all_rows(), augment, options)
    state = create_state(variables_of(model), tx, with_ema=True)
    state, seen = jax.jit(step)(state, make_batch(8), jax.random.key(0))
    numbers = {key: float(value) for key, value in seen.items()}
    # Sums would hide a swap of two weights; these inner products do not.
    for part in ("params", "batch_stats", "ema"):
        leaves = jax.tree.leaves(getattr(state, part))
        flat = np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)
        numbers[part] = float(flat @ np.cos(np.arange(flat.size)))
    return {key: float(f"{value:.6g}") for key, value in numbers.items()}


def stored() -> dict[str, dict[str, float]]:
    """What the steps gave when they were last looked at."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}
