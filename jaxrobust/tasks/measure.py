"""The attacks of an evaluation that stand beside its suite, each over all images."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import numpy as np

from jaxrobust.attacks.minimum_eps import minimum_eps_bisection
from jaxrobust.evaluators.passes import Accuracy, AccuracyPass, MinimumEpsPass
from jaxrobust.loader import Feed
from jaxrobust.tasks.networks import Source
from jaxrobust.tasks.setup import Config, build_pass, make_attack
from jaxrobust.threat import ThreatModel
from jaxrobust.types import LogitsFn

FARTHEST = {"linf": lambda size: 1.0, "l2": lambda size: size**0.5, "l1": float}
"""The radius that holds every image, by norm and number of pixels."""


@dataclass(frozen=True)
class Measured:
    """`controls` and the attacks `own` to the suite by name, the points (eps, accuracy)
    of the curve, and smallest eps f32[N] with its non-monotone hits i32[N]."""

    controls: Mapping[str, Accuracy]
    own: Mapping[str, Accuracy]
    curve: tuple[tuple[float, float], ...]
    minimum: tuple[np.ndarray, np.ndarray] | None

    @property
    def single(self) -> dict[str, Accuracy]:
        """Controls and the suite's own."""
        return {**self.controls, **self.own}


@dataclass(frozen=True)
class Measure:
    """`(logits_fn, feed, key) -> Measured`; every program is compiled once."""

    config: Config
    spec: Config
    source: Source

    def __post_init__(self):
        # Read here so that a mistake shows before anything is written.
        _ = self.controls, self.own, self.curve, self.minimum

    def __call__(self, logits_fn: LogitsFn, feed: Feed, key: jax.Array) -> Measured:
        """Attack all images of `feed`."""
        threat, index = self.source.threat, np.arange(len(feed.pool))
        run = lambda attack, ball: attack(logits_fn, feed, index, key, ball)
        return Measured(
            controls={
                name: run(attack, threat) for name, attack in self.controls.items()
            },
            own={name: run(attack, threat) for name, attack in self.own.items()},
            curve=tuple(
                (eps, run(self.curve, ball).value) for eps, ball in self._balls()
            ),
            minimum=run(self.minimum, self._widest()) if self.minimum else None,
        )

    @cached_property
    def controls(self) -> dict[str, AccuracyPass]:
        """One pass for each attack that checks compare with, counted as it is."""
        return {name: self._pass(s) for name, s in self.config["controls"].items()}

    @cached_property
    def own(self) -> dict[str, AccuracyPass]:
        """One pass for each attack of the suite that stands for itself."""
        passes = {}
        for name, spec in self.spec["attacks"].items():
            given = {"count_outside": self.spec["count_outside"], **spec}
            counts = given.pop("count_outside")
            passes[name] = self._pass(given, counts)
        return passes

    @cached_property
    def curve(self) -> AccuracyPass:
        """The pass of the accuracy-versus-eps curve."""
        return self._pass(self.config["curve"]["attack"])

    @cached_property
    def minimum(self) -> MinimumEpsPass | None:
        """The pass that looks for the smallest eps, where the suite asks for it."""
        if not self.spec["minimum_eps"]:
            return None
        given = self.config["minimum_eps"]
        make = partial(make_attack, given["attack"])
        make(self.source.threat)
        search = lambda ball: minimum_eps_bisection(make, ball, given["num_halvings"])
        return MinimumEpsPass(search, self.config["batch_size"], self.source.mesh)

    def _pass(self, spec: Config, count_outside: bool = True) -> AccuracyPass:
        size, source = self.config["batch_size"], self.source
        return build_pass(spec, source.threat, size, source.mesh, count_outside)

    def _balls(self) -> list[tuple[float, ThreatModel]]:
        """The radii of the curve, the last one without bounds."""
        threat = self.source.threat
        ratios = self.config["curve"]["ratios"]
        size = int(np.prod(self.source.splits.test.image.shape[1:]))
        farthest = float(FARTHEST[threat.norm](size))
        radii = [r * float(threat.eps) for r in ratios]
        radii = [eps for eps in radii if eps < farthest] + [farthest]
        return [(eps, ThreatModel(eps, threat.norm)) for eps in radii]

    def _widest(self) -> ThreatModel:
        """Where the search for the smallest eps ends."""
        ratio, threat = self.config["minimum_eps"]["largest_ratio"], self.source.threat
        return ThreatModel(float(threat.eps) * ratio, threat.norm)
