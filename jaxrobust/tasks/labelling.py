"""Labels for a generated pool, and which of its images are worth training on."""

import dataclasses
import logging
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust import registry, sharding
from jaxrobust.data.image_set import UNLABELLED, ImageSet
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.evaluators.predict import predict
from jaxrobust.files import write_npz
from jaxrobust.finished import FinishedRun, open_run
from jaxrobust.selection import Manifest, read_manifest, write_manifest
from jaxrobust.selection.filters import FILTERS, Opinion, opinion
from jaxrobust.tasks.networks import load_network
from jaxrobust.tasks.setup import Setup
from jaxrobust.tasks.trainer import Trainer
from jaxrobust.types import LogitsFn, Subset

logger = logging.getLogger(__name__)
NAME = "pool-labels"
USES = ("given", "predicted")
SHOWN_IMAGES = 24
FIRST_SEED = 2_000_000
"""Labelers start from networks of their own, never from those they make data for."""


class Labelled(NamedTuple):
    """A pool with the labels that are trained on, and the positions in it of the images
    that were kept, int64[M]."""

    pool: ImageSet
    kept: np.ndarray
    facts: dict[str, Any]


class Labelling:
    """What `config.label` asks for; building one checks it.

    Labelers are the networks of a finished run, or `count` networks that are trained
    here on the original images with `method`.
    """

    def __init__(self, setup: Setup):
        self.setup, self.spec = setup, setup.config["label"]
        self._filter = registry.build("filter", FILTERS, self.spec["filter"])
        if self.spec["use"] not in USES:
            raise unknown_name("label.use", self.spec["use"], USES)
        self._method = registry.lookup("method", setup.methods, self.spec["method"])
        self._run: FinishedRun | None = None
        if self.spec["checkpoint"]:
            self._run = open_run(self.spec["checkpoint"])
            self._rows = self._run.find(self.spec["networks"], self.spec["seeds"])
        self._check_count()

    def _check_count(self) -> None:
        count = self.spec["count"] if self._run is None else len(self._rows)
        wanted = 2 if self.spec["filter"]["name"] == "two_labelers" else 0
        needs = self.spec["use"] == "predicted" or self.spec["filter"]["name"] != "none"
        if (wanted and count != wanted) or count < needs:
            raise UserError(
                f"label.filter {self.spec['filter']['name']!r} with label.use "
                f"{self.spec['use']!r} needs {wanted or 1} labelers, not {count}: "
                "set label.count, or name label.networks and label.seeds"
            )

    @property
    def predicts(self) -> bool:
        """Whether the pool needs no labels of its own."""
        return self.spec["use"] == "predicted"

    @property
    def work(self) -> float:
        """The work of training labelers."""
        if self._run is not None:
            return 0.0
        batch = self.setup.config["train"]["batch_size"]
        steps = self.spec["count"] * self.spec["num_steps"]
        return steps * batch * self._method.gradients

    def __call__(self, trainer: Trainer, pool: ImageSet) -> Labelled:
        """Label and filter `pool`; `trainer` has the original images alone."""
        folder = trainer.workdir.selections
        known = read_manifest(folder, NAME)
        if known is None:
            known = self._label(trainer, pool)
            if sharding.is_lead():
                folder.mkdir(parents=True, exist_ok=True)
                write_npz(folder / f"{NAME}.images.npz", _thrown(pool, known))
                write_manifest(folder, NAME, known)
        else:
            trainer.progress.skip(self.work)
        label = known.columns["label"].astype(np.int32)
        kept = np.flatnonzero(known.columns["kept"])
        return Labelled(dataclasses.replace(pool, label=label), kept, known.facts)

    def _label(self, trainer: Trainer, pool: ImageSet) -> Manifest:
        opinions = tuple(self._opinions(trainer, pool))
        label = opinions[0].label if self.predicts else pool.label
        kept = self._filter(label, opinions)
        counts = np.bincount(label[kept], minlength=pool.num_classes)
        if counts.min() == 0:
            raise UserError(
                f"label.filter leaves no image of class "
                f"{pool.class_names[int(counts.argmin())]!r}: loosen it, or train the "
                "labelers for longer"
            )
        facts = self._facts(pool, label, kept, opinions)
        logger.info("labels: %d of %d generated images kept", kept.sum(), len(kept))
        return Manifest(_columns(pool, label, kept, opinions), facts)

    def _opinions(self, trainer: Trainer, pool: ImageSet):
        gather = lambda index: np.asarray(pool.image[index])
        size = self.spec["batch_size"]
        for logits_fn in self._labelers(trainer):
            yield opinion(predict(logits_fn, gather, len(pool), size))

    def _labelers(self, trainer: Trainer):
        if self._run is not None:
            splits, mesh = self.setup.splits, self.setup.mesh
            for row in self._rows:
                yield load_network(self._run, row, splits, mesh, "").logits_fn
            return
        everything = Subset.uniform(np.arange(len(trainer.pool)))
        for number in range(self.spec["count"]):
            yield self._trained(trainer, everything, number)

    def _trained(self, trainer: Trainer, subset: Subset, number: int) -> LogitsFn:
        name, seed = f"labeler{number}", FIRST_SEED + number
        steps = self.spec["num_steps"]
        fitted = trainer.train(name, self._method, subset, seed, steps)
        return trainer.logits_fn(jax.block_until_ready(fitted.state))

    def _facts(self, pool, label, kept, opinions) -> dict[str, Any]:
        per_class = lambda rows: dict(
            zip(
                pool.class_names,
                np.bincount(label[rows], minlength=pool.num_classes).tolist(),
            )
        )
        facts = {
            "meaning": "kept = may be trained on; index counts in the generated pool; "
            "label is the one in use",
            "method": f"filter {self.spec['filter']['name']}",
            "filter": dict(self.spec["filter"]),
            "use": self.spec["use"],
            "candidates": len(label),
            "kept": int(kept.sum()),
            "kept_per_class": per_class(kept),
            "thrown_per_class": per_class(~kept),
            "class_names": list(pool.class_names),
            "data_sha256": [pool.fingerprint()],
            "provenance": pool.provenance,
        }
        if opinions and (pool.label != UNLABELLED).all():
            agreed = float(np.mean(opinions[0].label == pool.label))
            facts["first_labeler_agrees"] = agreed
        if len(opinions) == 2:
            same = opinions[0].label == opinions[1].label
            facts["labelers_agree"] = float(np.mean(same))
        return facts


def _columns(pool, label, kept, opinions: tuple[Opinion, ...]) -> dict:
    """One row for each image of the pool; `score` is the first labeler's probability of
    the label in use."""
    score = opinions[0].of(label) if opinions else np.ones(len(label))
    columns = {
        "index": np.arange(len(label), dtype=np.int64),
        "source_row": pool.source_rows,
        "weight": np.ones(len(label), np.float32),
        "score": score.astype(np.float32),
        "kept": kept,
        "label": label,
        "given": pool.label,
    }
    for number, seen in enumerate(opinions, 1):
        columns[f"label{number}"] = seen.label
        columns[f"confidence{number}"] = seen.confidence.astype(np.float32)
    return columns


def _thrown(pool: ImageSet, manifest: Manifest) -> dict[str, np.ndarray]:
    """Examples of what was thrown away, the least likely first."""
    c = manifest.columns
    order = np.argsort(c["score"], kind="stable")
    rows = order[~c["kept"][order]][:SHOWN_IMAGES]
    shown = {"image": pool.take(rows).image, "label": c["label"][rows]}
    for name in ("label1", "label2", "confidence1", "confidence2"):
        if name in c:
            shown[name] = c[name][rows]
    return shown
