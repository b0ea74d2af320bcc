"""Robust discrimination: networks that tell real from generated images under attack."""

import dataclasses
from typing import Any

import numpy as np

from jaxrobust import registry
from jaxrobust.data import Splits
from jaxrobust.data.image_set import ImageSet
from jaxrobust.errors import UserError
from jaxrobust.loader import make_pool
from jaxrobust.progress import Progress
from jaxrobust.proxy.discrimination import discrimination_area, discrimination_set
from jaxrobust.tasks.setup import (
    Config,
    Setup,
    build_method,
    build_model,
    build_pass,
)
from jaxrobust.tasks.trainer import Trainer
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Subset
from jaxrobust.workdir import Workdir

FIRST_SEED = 3_000_000


class Discriminating:
    """What `config.explain.arc` asks for; building one checks it.

    At each of `ratios` of the threat's eps a network is trained by `method` and
    evaluated under PGD on held-out images; steps of attacks scale with eps.
    """

    def __init__(self, setup: Setup):
        self.setup, self.spec = setup, setup.config["explain"]["arc"]
        registry.lookup("method", setup.methods, self.spec["method"])
        ratios = self.spec["ratios"]
        if len(ratios) == 1 or (np.diff(ratios) <= 0).any():
            raise UserError(
                f"explain.arc.ratios {tuple(ratios)} must be two or more that increase"
            )
        evaluation = setup.config["eval"]
        attack = _in_units(evaluation["attacks"]["pgd"], setup.threat)
        # One for all radii, compiled once.
        self._pass = build_pass(
            attack, setup.threat, evaluation["batch_size"], setup.mesh
        )

    @property
    def work(self) -> float:
        """The work of training all networks."""
        method = self.setup.methods[self.spec["method"]]
        batch = self.setup.config["train"]["batch_size"]
        networks = len(self.spec["ratios"])
        return networks * self.spec["num_steps"] * batch * method.gradients

    def __call__(
        self, real: ImageSet, generated: ImageSet, workdir: Workdir, progress: Progress
    ) -> dict[str, Any] | None:
        """{"norm", "points", "area"} as proxy.json has it, None for no ratios."""
        if not self.spec["ratios"]:
            return None
        train, test = discrimination_set(real, generated, self.spec["seed"])
        splits = Splits(train=train, val=train.take(np.arange(0)), test=test)
        points = []
        for ratio in self.spec["ratios"]:
            trainer = self._trainer(ratio, splits, workdir, progress)
            points.append([float(trainer.setup.threat.eps), self._accuracy(trainer)])
        eps, accuracy = zip(*points)
        area = discrimination_area(eps, accuracy)
        return {"norm": self.setup.threat.norm, "points": points, "area": area}

    def _accuracy(self, trainer: Trainer) -> float:
        setup = trainer.setup
        method = setup.methods[self.spec["method"]]
        everything = Subset.uniform(np.arange(len(trainer.pool)))
        stage = f"arc/eps-{float(setup.threat.eps):.4g}"
        seed = FIRST_SEED + self.spec["seed"]
        steps = self.spec["num_steps"]
        fitted = trainer.train(stage, method, everything, seed, steps)
        return trainer.evaluate(fitted.state)["pgd_acc"]

    def _trainer(
        self, ratio: float, splits: Splits, workdir: Workdir, progress: Progress
    ) -> Trainer:
        """One that knows two classes and a ball of `ratio` times the radius."""
        setup, config = self.setup, self.setup.config
        threat = ThreatModel(ratio * float(setup.threat.eps), setup.threat.norm)
        name = self.spec["method"]
        spec = {
            **config["methods"][name],
            "attack": _scaled(config["methods"][name]["attack"], ratio),
        }
        # A small pool has fewer images of some class than a batch wants.
        unit = setup.mesh.size * config["train"]["accumulate"]
        most = len(splits.train) // unit * unit
        batch_size = min(config["train"]["batch_size"], most)
        train = {**config["train"], "batch_size": batch_size}
        two = dataclasses.replace(
            setup,
            config={**config, "train": train},
            splits=splits,
            threat=threat,
            model=build_model(config["model"], splits.train),
            methods={name: build_method(name, spec, threat)},
            evaluations={"pgd": self._pass},
        )
        return Trainer(two, make_pool(splits.train, None), workdir, progress)


def _in_units(attack: Config, threat: ThreatModel) -> dict[str, Any]:
    """The attack with its step in units of eps, so that it serves every radius."""
    attack = dict(attack)
    step = attack.pop("step_size")
    return {**attack, "step_ratio": step / float(threat.eps)}


def _scaled(attack: Config, ratio: float) -> dict[str, Any]:
    """The attack with steps for a ball of another radius."""
    return {**attack, "step_size": ratio * attack["step_size"]}
