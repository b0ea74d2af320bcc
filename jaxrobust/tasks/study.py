"""What the rows of a comparison share: the network that ranks, and its verdicts."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrobust import sharding
from jaxrobust.errors import UserError
from jaxrobust.files import write_npz
from jaxrobust.samplers import FixedSampler, WatchedSampler
from jaxrobust.selection import Manifest, ScoringPass, read_manifest, write_manifest
from jaxrobust.tasks.fit import Fitted
from jaxrobust.tasks.ranking import choose, describe, score_pool, scoring_pass
from jaxrobust.tasks.setup import Method, attack_gradients
from jaxrobust.tasks.trainer import Trainer
from jaxrobust.trackers import Tracker
from jaxrobust.types import Subset, TrainState


@dataclass(frozen=True)
class Costs:
    """What choosing took: seconds without compilation, and passes of single images
    through the network."""

    rounds_seconds: float = 0.0
    score_seconds: float = 0.0
    select_seconds: float = 0.0
    passes: float = 0.0

    def __add__(self, other: "Costs") -> "Costs":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Costs(*(a + b for a, b in pairs))


class Ranked(NamedTuple):
    """A score f32[N] of the whole pool, larger being harder; what it took; and how it
    came about, for the manifest."""

    score: np.ndarray
    costs: Costs
    facts: dict[str, Any]


@dataclass
class Study:
    """The trainer of a comparison, and the networks that rank, one for each seed.

    A ranking network trains for `ranking_steps` on everything. Where histories are
    wanted, it looks at the whole pool every `look_every_steps`, else 0.
    """

    trainer: Trainer
    method: Method
    ranking_steps: int
    look_every_steps: int
    _rankers: dict[int, Fitted] = field(default_factory=dict)
    _stored: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    _manifests: dict[str, Manifest] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Images of a training step."""
        return self.trainer.setup.config["train"]["batch_size"]

    @property
    def size(self) -> int:
        """Images of the pool."""
        return len(self.trainer.pool)

    @cached_property
    def everything(self) -> np.ndarray:
        """All pool positions."""
        return np.arange(self.size)

    def budget(self, share: float) -> int:
        """A share of the pool in images."""
        return round(share * self.size)

    def whole_chunks(self, steps: float) -> int:
        """About so many steps, in whole chunks, at least one."""
        chunk = self.trainer.setup.config["train"]["chunk_steps"]
        return max(round(steps / chunk), 1) * chunk

    def ranker(self, seed: int) -> Fitted:
        """The trained network that ranks for `seed`."""
        if seed not in self._rankers:
            subset = Subset.uniform(self.everything)
            sampler = FixedSampler(subset, seed, self.batch_size)
            if self.look_every_steps:
                look = lambda step, state: self._look(seed, step, state)
                sampler = WatchedSampler(sampler, look, self.look_every_steps)
            self._rankers[seed] = self.trainer.train_on(
                f"seed{seed}/ranking", self.method, sampler, self.size, seed,
                self.ranking_steps,
            )  # fmt: skip
        return self._rankers[seed]

    def rounds(self, seed: int) -> Costs:
        """What training the ranking network took."""
        passes = self.ranking_steps * self.batch_size * self.method.gradients
        return Costs(rounds_seconds=self.ranker(seed).seconds, passes=passes)

    def ranked(
        self, choice: str, scoring: ScoringPass, passes: float, seed: int
    ) -> Ranked:
        """The pool by the score of `scoring`, `passes` an image, and the ranking
        network."""
        compute = lambda: self._scored(scoring, self.ranker(seed).state, seed)
        found = self._keep(f"seed{seed}-{choice}", compute)
        costs = Costs(score_seconds=float(found["seconds"]), passes=passes * self.size)
        facts = {"step": self.ranking_steps}
        return Ranked(found["score"], self.rounds(seed) + costs, facts)

    def tracked(self, tracker: Tracker, on: str, seed: int) -> Ranked:
        """The pool by the history of the ranking network."""
        state, index = tracker.init(self.size), jnp.asarray(self.everything)
        label, seconds = jnp.asarray(self.trainer.pool.label), 0.0
        end = self.ranker(seed).state  # it has looked on the way, but for its end
        every = self.look_every_steps
        steps = range(every, self.ranking_steps + 1, every)
        for step in steps:
            last = end if step == self.ranking_steps else None
            found = self._look(seed, step, last)
            state = tracker.update(state, index, jnp.asarray(found[on]), label)
            seconds += float(found["seconds"])
        sign = 1.0 if tracker.larger == "hard" else -1.0
        gradients = attack_gradients(self.trainer.setup.config["score"]["attack"])
        a_look = 1 if on == "clean" else 2 * gradients + 1
        costs = Costs(score_seconds=seconds, passes=len(steps) * a_look * self.size)
        facts = {"step": self.ranking_steps, "looks": len(steps)}
        score = sign * np.asarray(tracker.score(state))
        return Ranked(score, self.rounds(seed) + costs, facts)

    def look_now(
        self,
        name: str,
        scoring: ScoringPass,
        passes: float,
        state: TrainState | None,
        seed: int,
        step: int,
    ) -> Ranked:
        """The pool by a network that is being trained, in `state` at `step` unless it
        has looked before."""
        found = self._keep(name, lambda: self._scored(scoring, state, seed))
        costs = Costs(score_seconds=float(found["seconds"]), passes=passes * self.size)
        return Ranked(found["score"], costs, {"step": step})

    def chosen(
        self,
        name: str,
        ranked: Ranked,
        share: float,
        seed: int,
        configured: Mapping[str, Any],
    ) -> tuple[Subset, Costs]:
        """The subset of a ranking, with all that it took; kept as the manifest `name`.

        `configured` is the choice in words, with its "order" and "balanced".
        """

        def make() -> Manifest:
            found = choose(
                self.trainer, {"score": ranked.score}, self.everything, seed,
                self.budget(share), configured["order"], configured["balanced"],
            )  # fmt: skip
            facts = {"method": dict(configured), "seed": seed}
            return found._replace(facts={**facts, **ranked.facts, **found.facts})

        manifest = self.recall(name, make)
        took = Costs(select_seconds=manifest.facts["select_seconds"])
        return manifest.subset, ranked.costs + took

    def recall(self, name: str, make: Callable[[], Manifest]) -> Manifest:
        """The manifest `name`; made, described and written where there is none yet."""
        folder = self.trainer.workdir.selections
        manifest = self._manifests.get(name) or read_manifest(folder, name)
        if manifest is None:
            made = make()
            budget = int(made.columns["kept"].sum())
            facts = {**made.facts, **describe(self.trainer, made, budget)}
            manifest = made._replace(facts=facts)
            if sharding.is_lead():
                write_manifest(folder, name, manifest)
        self._manifests[name] = manifest
        return manifest

    def _look(self, seed: int, step: int, state: TrainState | None):
        """The logits of the whole pool at a step of the ranking network, which is in
        `state` unless it has looked before."""
        compute = lambda: self._scored(self._looking, state, seed)
        return self._keep(f"seed{seed}-look{step:06d}", compute)

    @cached_property
    def _looking(self) -> ScoringPass:
        kept = {
            "clean": lambda seen: seen.logits,
            "adversarial": lambda seen: seen.adv_logits,
        }
        return scoring_pass(self.trainer.setup, kept)

    def _scored(
        self, scoring: ScoringPass, state: TrainState | None, seed: int
    ) -> dict[str, np.ndarray]:
        if state is None:
            raise UserError(
                f"{self.trainer.workdir.path}/scores lacks what a network saw on its "
                "way: remove the run directory and begin anew"
            )
        found, seconds = score_pool(self.trainer, scoring, state, self.everything, seed)
        return {**found, "seconds": np.asarray(seconds)}

    def _keep(self, name: str, compute: Callable[[], dict[str, np.ndarray]]):
        """Arrays that are computed once for a run directory.

        Every process of a group asks its own memory first: a file that the lead has
        just written may not be everywhere yet.
        """
        path: Path = self.trainer.workdir.path / "scores" / f"{name}.npz"
        if name not in self._stored:
            if path.exists():
                with np.load(path) as stored:
                    self._stored[name] = {key: stored[key] for key in stored}
            else:
                self._stored[name] = compute()
                if sharding.is_lead():
                    path.parent.mkdir(exist_ok=True)
                    write_npz(path, self._stored[name])
        return self._stored[name]
