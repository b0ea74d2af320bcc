"""The rounds of hybrid reconstruction: merge, train, attack, rank, keep the top."""

import logging
from typing import NamedTuple

import numpy as np

from jaxrobust import registry, rng, sharding
from jaxrobust.files import write_npz
from jaxrobust.selection import Manifest, read_manifest, write_manifest
from jaxrobust.tasks.ranking import build_scoring, describe, rank
from jaxrobust.tasks.trainer import Trainer
from jaxrobust.types import Subset

logger = logging.getLogger(__name__)
SHOWN_IMAGES = 24
COSTS: tuple[str, ...] = (
    "train_seconds",
    "attack_seconds",
    "score_seconds",
    "select_seconds",
)


class Rebuilt(NamedTuple):
    """The hybrid set; every image that was a candidate; the last round's ranking; and
    what the rounds cost, by `<part>_seconds`."""

    hybrid: Subset
    candidates: np.ndarray
    last: Manifest | None
    costs: dict[str, float]


class Rebuilder:
    """Rebuilds a training set of the original size out of original and generated
    images.

    H_0 = original; in round r a random part of the generated pool joins H_{r-1}, a
    network is adversarially trained on the union, every image of it is scored, and the
    top K make H_r, K being the original size.

    Ref: Dong et al., Towards Adversarially Robust Data-Efficient Learning with
    Generated Data, section II. Deviates: the paper leaves the number of rounds, the
    sampled part, the combination of W_nat and W_bdy and the length of a round open;
    `config.reconstruct` and `config.score` hold choices made by measurement.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.setup = trainer.setup
        self.spec = self.setup.config["reconstruct"]
        self.method = registry.lookup("method", self.setup.methods, self.spec["method"])
        self.scoring = build_scoring(self.setup)

    def run(self, seed: int) -> "Rebuilt":
        """All rounds of `seed`."""
        num_original = self.trainer.pool.num_original
        hybrid = np.arange(num_original)
        candidates = hybrid
        last, costs = None, {key: 0.0 for key in COSTS}
        for number in range(1, self.spec["rounds"] + 1):
            merged = np.union1d(hybrid, self._draw(seed, number))
            candidates = np.union1d(candidates, merged)
            name = f"seed{seed}-round{number}"
            manifest = read_manifest(self.trainer.workdir.selections, name)
            if manifest is None:
                manifest = self._round(name, merged, seed, number)
            else:
                self.trainer.progress.skip(self.stage_work)
            hybrid = manifest.subset.index
            last = manifest
            costs = {key: costs[key] + manifest.facts[key] for key in costs}
        return Rebuilt(Subset.uniform(hybrid), candidates, last, costs)

    @property
    def stage_work(self) -> float:
        """The training work of one round."""
        return self.trainer.stage("", self.method, self.spec["round_steps"]).work

    def _draw(self, seed: int, number: int) -> np.ndarray:
        """Pool positions of the generated images that join in this round."""
        num_original, size = self.trainer.pool.num_original, len(self.trainer.pool)
        count = round(self.spec["sample_fraction"] * num_original)
        count = min(count, size - num_original)
        return num_original + rng.host_choice(seed, number, size - num_original, count)

    def _round(self, name: str, merged: np.ndarray, seed: int, number: int) -> Manifest:
        fitted = self.trainer.train(
            f"seed{seed}/round{number}",
            self.method,
            Subset.uniform(merged),
            round_seed(seed, number),
            self.spec["round_steps"],
        )
        budget = self.trainer.pool.num_original
        ranking = rank(
            self.trainer,
            self.scoring,
            fitted.state,
            merged,
            round_seed(seed, number),
            budget,
            self.spec["order"],
            self.spec["balanced"],
        )
        steps = self.spec["round_steps"]
        attack = self.trainer.attack_seconds(self.method, fitted.state, steps)
        attack = min(attack, fitted.seconds)
        facts = {
            "method": f"hybrid reconstruction, {self.spec['order']} first",
            "round": number,
            "seed": seed,
            "step": steps,
            "train_seconds": fitted.seconds - attack,
            "attack_seconds": attack,
            **describe(self.trainer, ranking, budget),
        }
        manifest = Manifest(ranking.columns, {**facts, **ranking.facts})
        if sharding.is_lead():
            folder = self.trainer.workdir.selections
            folder.mkdir(parents=True, exist_ok=True)
            write_npz(folder / f"{name}.images.npz", self._exchanged(manifest))
            write_manifest(folder, name, manifest)
        logger.info(
            "%s: %d of %d kept, %.0f%% of them generated",
            name,
            budget,
            len(merged),
            100 * facts["generated_share"],
        )
        return manifest

    def _exchanged(self, manifest: Manifest) -> dict[str, np.ndarray]:
        """The original images that went, easiest first, the generated ones that came,
        hardest first."""
        c = manifest.columns
        order = np.argsort(c["score"], kind="stable")
        dropped = order[(~c["kept"] & ~c["generated"])[order]][:SHOWN_IMAGES]
        entered = order[::-1][(c["kept"] & c["generated"])[order[::-1]]][:SHOWN_IMAGES]
        shown = {}
        for key, rows in (("dropped", dropped), ("entered", entered)):
            shown[key] = self.trainer.pool.gather(c["index"][rows])
            shown[f"{key}_label"] = c["label"][rows]
            shown[f"{key}_score"] = c["score"][rows]
        return shown


def round_seed(seed: int, number: int) -> int:
    """Rounds start from networks of their own, never from the final one's seed."""
    return 1_000_000 + 1_000 * seed + number
