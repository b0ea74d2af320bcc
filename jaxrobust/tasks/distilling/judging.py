"""What a network is worth: accuracies at several radii, worst case, curvature."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxrobust import losses, rng, sharding
from jaxrobust.errors import UserError
from jaxrobust.evaluators.curvature import CurvaturePass
from jaxrobust.evaluators.suites import suite
from jaxrobust.loader import Feed, Pool
from jaxrobust.tasks.results import Row
from jaxrobust.tasks.rows import suite_row
from jaxrobust.tasks.setup import Setup
from jaxrobust.threat import ThreatModel
from jaxrobust.types import LogitsFn


@dataclass(frozen=True)
class Judge:
    """Every attack of `config.eval` on the whole test split, at the radius of the run
    and at those of `distill.eps`; every program is compiled once."""

    setup: Setup
    spec: Mapping[str, Any]

    def __post_init__(self):
        own = float(self.setup.threat.eps)
        if any(not eps > 0 for eps in self.spec["eps"]):
            raise UserError(f"distill.eps {self.spec['eps']} are not all above 0")
        if len(self.setup.evaluations) < 2:
            raise UserError("eval.attacks is empty: name at least one attack")
        if own in self.spec["eps"]:
            raise UserError(f"distill.eps repeats threat.eps {own:g}: leave it out")
        if self.spec["autoattack"]["version"]:
            version = self.spec["autoattack"]["version"]
            suite(version, self.setup.threat.norm, self.setup.splits.num_classes)

    def __call__(self, logits_fn: LogitsFn, with_suite: bool) -> Row:
        """The row of a network; `with_suite` adds AutoAttack where it is wanted."""
        threat = self.setup.threat
        row = self._at(logits_fn, threat)
        curve = [[0.0, row["clean_acc"]], [float(threat.eps), row["worst_acc"]]]
        for eps in self.spec["eps"]:
            there = self._at(logits_fn, ThreatModel(eps, threat.norm))
            curve.append([float(eps), there["worst_acc"]])
        return {
            **row,
            **(self._autoattack(logits_fn) if with_suite else {}),
            "robustness_ratio": robustness_ratio(row),
            "worst_curve": sorted(curve),
            **self._curvature(logits_fn),
        }

    @cached_property
    def _feed(self) -> Feed:
        limit = self.setup.config["train"]["device_gb"]
        return Feed(Pool((self.setup.splits.test,)), self.setup.mesh, limit)

    @cached_property
    def _key(self) -> jax.Array:
        return sharding.replicate_key(rng.purpose_key(0, "eval"), self.setup.mesh)

    def _at(self, logits_fn: LogitsFn, threat: ThreatModel) -> Row:
        """`<name>_acc`, `worst_acc` (right under all of them) and `max_distance`."""
        index = np.arange(len(self.setup.splits.test))
        found = {
            name: attack(logits_fn, self._feed, index, self._key, threat)
            for name, attack in self.setup.evaluations.items()
        }
        # As in AutoAttack, an image that is misread as it is needs no attack.
        right = {n: seen.flags & found["clean"].flags for n, seen in found.items()}
        # Not Python's max: that loses a NaN.
        farthest = np.max([seen.distance for seen in found.values()])
        return {
            **{f"{name}_acc": float(flags.mean()) for name, flags in right.items()},
            "worst_acc": float(np.all(list(right.values()), axis=0).mean()),
            "max_distance": float(farthest),
        }

    def _autoattack(self, logits_fn: LogitsFn) -> Row:
        spec = self.spec["autoattack"]
        if not spec["version"]:
            return {}
        rows = self._some(spec["images"])
        found = suite_row(logits_fn, self.setup, rows, spec["version"])
        return {**found, "aa_images": len(rows)}

    @cached_property
    def _bend(self) -> CurvaturePass:
        steps = self.spec["curvature"]["num_steps"]
        size = self.setup.config["eval"]["batch_size"]
        return CurvaturePass(losses.cross_entropy, steps, size, self.setup.mesh)

    def _curvature(self, logits_fn: LogitsFn) -> Row:
        spec = self.spec["curvature"]
        rows = self._some(spec["images"])
        found = self._bend(logits_fn, self._feed, rows, self._key, spec["h"]).summary()
        return {name: found[name] for name in ("hessian_top", "curvature")}

    def _some(self, count: int) -> np.ndarray:
        """So many test images, the same for every network; 0 takes all."""
        size = len(self.setup.splits.test)
        return rng.host_choice(0, 0, size, min(count or size, size))


def robustness_ratio(row: Row) -> float:
    """1 - (clean - mean)(clean - min) / clean^2 over the attacks of a row: 1 where none
    of them harms.

    Ref: ROME, the successor of BEARD (arXiv:2411.09265), whose own ratio is 0 for a
    network that withstands all attacks equally well.
    """
    clean = row["clean_acc"]
    beside = ("clean_acc", "worst_acc")
    attacked = [v for k, v in row.items() if k.endswith("_acc") and k not in beside]
    if clean == 0:
        return 0.0
    mean, least = float(np.mean(attacked)), float(np.min(attacked))
    return 1 - (clean - mean) * (clean - least) / clean**2
