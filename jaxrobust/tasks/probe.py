"""A quick look at a network during training: validation accuracy, and a collapse
alarm."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from jaxrobust import rng, sharding
from jaxrobust.loader import Feed
from jaxrobust.state import bind, eval_variables
from jaxrobust.tasks.setup import Setup, build_pass
from jaxrobust.types import TrainState

logger = logging.getLogger(__name__)


def make_probe(
    setup: Setup, feed: Feed, kind: str
) -> Callable[[TrainState], dict[str, float]]:
    """TrainState -> {"<kind>_clean_acc", "<kind>_fgsm_acc", "<kind>_pgd_acc"}.

    `kind` says whose images `feed` holds: "val" or, where none are held out, "train".
    FGSM beside PGD shows catastrophic overfitting: a network that withstands one step
    and falls to several.
    """
    spec = setup.config["eval"]
    size = min(spec["probe_images"], feed.pool.num_original)
    attacks = {
        "clean": {"name": "none"},
        "fgsm": {"name": "fgsm", "loss": "cross_entropy"},
        "pgd": spec["probe_attack"],
    }
    devices = setup.mesh.size
    batch_size = min(spec["batch_size"], -(-size // devices) * devices)
    passes = {
        name: build_pass(attack, setup.threat, batch_size, setup.mesh)
        for name, attack in attacks.items()
    }
    index = rng.host_choice(0, 1, feed.pool.num_original, size)
    key = sharding.replicate_key(rng.purpose_key(0, "eval"), setup.mesh)

    def probe(state: TrainState) -> dict[str, float]:
        variables = sharding.whole(eval_variables(state), setup.mesh)
        logits_fn = bind(setup.model, variables, bn="running")
        return {
            f"{kind}_{name}_acc": run(logits_fn, feed, index, key, setup.threat).value
            for name, run in passes.items()
        }

    return probe


def warn_if_overfitted(probe: dict[str, float]) -> None:
    """Say so at once, in the log, when training has collapsed."""
    if overfitted(probe):
        found = ", ".join(f"{name} {value:.1%}" for name, value in probe.items())
        logger.warning(
            "catastrophic overfitting (%s): lower threat.eps or the learning rate, or "
            "train with more attack steps",
            found,
        )


def overfitted(probe: Mapping[str, Any]) -> bool:
    """Whether single-step training has collapsed: FGSM fails where PGD always succeeds.

    Ref: Wong et al., arXiv:2001.03994, section 5.4.
    """
    for kind in ("val", "train"):
        fgsm = probe.get(f"{kind}_fgsm_acc", 0.0)
        if fgsm > 0.2 and probe.get(f"{kind}_pgd_acc", 0.0) < 0.25 * fgsm:
            return True
    return False
