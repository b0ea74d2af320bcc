"""A quick look at a network during training: validation accuracy, and a collapse
alarm."""

import logging
from collections.abc import Callable

import numpy as np

from jaxrobust import rng, sharding
from jaxrobust.evaluators import AccuracyPass
from jaxrobust.loader import Feed
from jaxrobust.state import bind, eval_variables
from jaxrobust.tasks.setup import Setup, build_attack
from jaxrobust.types import TrainState

logger = logging.getLogger(__name__)


def make_probe(
    setup: Setup, feed: Feed | None
) -> Callable[[TrainState], dict[str, float]] | None:
    """TrainState -> {"val_clean_acc", "val_fgsm_acc", "val_pgd_acc"}; None without
    images.

    FGSM beside PGD shows catastrophic overfitting: a network that withstands one step
    and falls to several.
    """
    if feed is None:
        return None
    spec = setup.config["eval"]
    size = min(spec["probe_images"], len(feed.pool))
    attacks = {
        "clean": build_attack("attack", {"name": "none"}, setup.threat),
        "fgsm": build_attack(
            "attack", {"name": "fgsm", "loss": "cross_entropy"}, setup.threat
        ),
        "pgd": build_attack("probe attack", spec["probe_attack"], setup.threat),
    }
    passes = {
        name: AccuracyPass(attack, setup.threat, spec["batch_size"], setup.mesh)
        for name, attack in attacks.items()
    }
    index = np.arange(size)
    key = sharding.replicate_key(rng.purpose_key(0, "eval"), setup.mesh)

    def probe(state: TrainState) -> dict[str, float]:
        logits_fn = bind(setup.model, eval_variables(state), bn="running")
        found = {
            f"val_{name}_acc": run(logits_fn, feed, index, key).value
            for name, run in passes.items()
        }
        if overfitted(found):
            logger.warning(
                "catastrophic overfitting: FGSM accuracy %.1f%%, PGD %.1f%%; lower "
                "threat.eps or the learning rate, or train with more attack steps",
                100 * found["val_fgsm_acc"],
                100 * found["val_pgd_acc"],
            )
        return found

    return probe


def overfitted(probe: dict[str, float]) -> bool:
    """Whether single-step training has collapsed: FGSM fails where PGD always succeeds.

    Ref: Wong et al., arXiv:2001.03994, section 5.4.
    """
    fgsm, pgd = probe.get("val_fgsm_acc", 0.0), probe.get("val_pgd_acc", 0.0)
    return fgsm > 0.2 and pgd < 0.25 * fgsm
