"""One network under every attack of an evaluation: its row, its images, its checks."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import rng, sharding
from jaxrobust.attacks.machine import Component
from jaxrobust.errors import UserError
from jaxrobust.evaluators.before import before_attack
from jaxrobust.evaluators.engine import Engine, Images
from jaxrobust.evaluators.predict import predict
from jaxrobust.evaluators.proof import rounded
from jaxrobust.evaluators.protocol import (
    Attacker,
    AutoAttackResult,
    open_ledger,
    summarise,
)
from jaxrobust.evaluators.suites import suite, suite_name
from jaxrobust.files import write_npz
from jaxrobust.interop import export_torch
from jaxrobust.loader import Feed, Pool, to_unit
from jaxrobust.progress import Progress
from jaxrobust.tasks.ledger import LedgerStore
from jaxrobust.tasks.measure import Measure, Measured
from jaxrobust.tasks.networks import Network, Source
from jaxrobust.tasks.results import Row
from jaxrobust.tasks.setup import Config
from jaxrobust.tasks.trust import Outcome, checks_after, per_class
from jaxrobust.tasks.watch import Watch, run_work
from jaxrobust.workdir import Workdir, stage_folder


@dataclass(frozen=True)
class Examiner:
    """What all networks of an evaluation share; every program is compiled once."""

    config: Config
    spec: Config
    source: Source

    def __post_init__(self):
        # Read here so that a mistake shows before anything is written.
        _ = self.components, self.measure
        if self.spec["version"] == "rand":
            raise UserError(
                "version rand is for networks that take keys: use "
                "jaxrobust.evaluators.autoattack from Python"
            )

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """The suite's attacks in order."""
        norm, classes = self.source.threat.norm, self.source.splits.test.num_classes
        names = tuple(self.spec["components"])
        return suite(self.spec["version"], norm, classes, names)

    @cached_property
    def measure(self) -> Measure:
        """The attacks beside the suite."""
        return Measure(self.config, self.spec, self.source)

    @cached_property
    def pool(self) -> Pool:
        """The images that are attacked."""
        return Pool((self.source.splits.test,))

    @cached_property
    def feed(self) -> Feed:
        """The same for passes over all of them."""
        return Feed(self.pool, self.source.mesh, device_gb=4.0)

    @cached_property
    def image(self) -> np.ndarray:
        """The same in [0,1], f32[N,H,W,C]."""
        everything = self.pool.gather(np.arange(len(self.pool)))
        return np.asarray(to_unit(jnp.asarray(everything)))

    @cached_property
    def key(self) -> jax.Array:
        """The key of everything that attacks draw."""
        key = rng.purpose_key(self.config["attack_seed"], "eval")
        return sharding.replicate_key(key, self.source.mesh)

    @property
    def planned_work(self) -> float:
        """The most that a network may take, in forward passes of one image."""
        works = (run_work(c, self.source.threat) for c in self.components)
        return len(self.pool) * sum(works)

    def folder(self, workdir: Workdir, name: str, seed: int) -> Path:
        """Where a network's images and unfinished ledger lie."""
        return workdir.path / "evaluation" / stage_folder(name, seed)

    def forget(self, workdir: Workdir, name: str, seed: int) -> None:
        """Remove the ledger of a suite whose row has been written."""
        LedgerStore(self.folder(workdir, name, seed)).remove()

    def examine(self, network: Network, workdir: Workdir, progress: Progress) -> Row:
        """Attack the network with everything; continues a suite that was cut off."""
        threat = self.source.threat
        before = self._checks_before(network)
        measured = self.measure(network.logits_fn, self.feed, self.key)
        started = time.monotonic()
        result = self._suite(network, workdir, progress)
        seconds = time.monotonic() - started
        outcome = Outcome(result, self._farthest(result, measured), measured)
        folder = self.folder(workdir, network.name, network.seed)
        prediction = self._save(folder, network, outcome)
        if self.config["export"] and sharding.is_lead():
            names = self.source.splits.test.class_names
            weights = jax.device_get(network.variables)
            export_torch(network.model, weights, folder / "torch", names)
        after = self._checks_after(outcome, network, prediction, workdir)
        return {
            "clean_acc": float(np.mean(result.clean)),
            **{f"{name}_acc": found.value for name, found in measured.single.items()},
            "aa_acc": float(np.mean(result.robust)),
            "max_distance": outcome.farthest,
            "eps": float(threat.eps),
            "norm": threat.norm,
            "suite_name": result.name,
            "aa_seconds": seconds,
            "forwards": result.cost.forwards,
            "backwards": result.cost.backwards,
            "idle": result.cost.idle,
            "eps_curve": [list(point) for point in measured.curve],
            "by_attack": {k: float(np.mean(v)) for k, v in result.by_attack.items()},
            "per_class": per_class(result, self.pool.label, self.pool.class_names),
            **outcome.nested(),
            "folder": str(folder.relative_to(workdir.path / "evaluation")),
            "images": len(prediction),
            "checks": [list(check) for check in (*before, *after)],
        }

    def _checks_after(
        self, outcome: Outcome, network: Network, prediction: np.ndarray, workdir
    ):
        label, copies = self.pool.label, rounded(outcome.result.x_adv)
        return checks_after(
            outcome,
            threat=self.source.threat,
            recount=prediction == label,
            rounded_acc=float(np.mean(self.predict(network, copies) == label)),
            transferred=self._transferred(network, workdir),
            trained_acc=None if self.source.limited else network.clean_acc,
            dtype=network.dtype,
            version=self.spec["version"],
            components=self.components,
            num_classes=self.source.splits.test.num_classes,
        )

    def _checks_before(self, network: Network):
        names = [component.name for component in self.components]
        return before_attack(
            network.logits_fn, self.image, self.pool.label, self.source.threat,
            self.key, names,
        )  # fmt: skip

    def _farthest(self, result: AutoAttackResult, measured: Measured) -> float:
        """How far the suite or a control went from an image; NaN if one did."""
        x_adv, image = jnp.asarray(result.x_adv), jnp.asarray(self.image)
        away = np.max(self.source.threat.distance(x_adv, image))
        controls = (found.distance for found in measured.controls.values())
        # Not Python's max: that loses a NaN.
        return float(np.max([float(away), *controls]))

    def _suite(
        self, network: Network, workdir: Workdir, progress: Progress
    ) -> AutoAttackResult:
        """The worst case over all components."""
        store = LedgerStore(self.folder(workdir, network.name, network.seed))
        size = self.config["batch_size"]
        shape = (len(self.pool), *self.source.splits.test.image.shape[1:])
        x_adv = store.images(shape)
        ledger = store.load(x_adv)
        if ledger is None:
            gather = self.pool.gather
            logits = predict(network.logits_fn, gather, len(self.pool), size)
            ledger = open_ledger(logits, self.pool.label, x_adv)
        index = np.arange(len(self.pool), dtype=np.int32)
        works = [len(index) * run_work(c, self.source.threat) for c in self.components]
        name = f"seed{network.seed}/{network.name}"
        watch = Watch(name, self.components, works, store, progress)
        attacker = Attacker(
            engine=Engine(size, self.config["chunk_steps"], self.source.mesh),
            threat=self.source.threat,
            logits_fn=network.logits_fn,
            verify_fn=network.exact_fn,
            images=Images(self.pool.gather, self.pool.label, ledger.others, index),
            key=self.key,
            on_turn=watch,
        )
        attacker.attack(ledger, self.components)
        watch.finish()
        classes = self.source.splits.test.num_classes
        name = suite_name(self.spec["version"], classes, self.components)
        return summarise(ledger, self.components, self.image, name)

    def predict(self, network: Network, image: np.ndarray) -> np.ndarray:
        """i32[N], what the float32 network reads in images f32[N,H,W,C]."""
        size = self.config["batch_size"]
        return predict(network.exact_fn, lambda i: image[i], len(image), size).argmax(1)

    def _save(self, folder: Path, network: Network, outcome: Outcome) -> np.ndarray:
        """Write the images that prove the outcome; i32[N], what they are read as."""
        result = outcome.result
        prediction = self.predict(network, result.x_adv).astype(np.int32)
        if sharding.is_lead():
            arrays = {
                "image": self.pool.gather(np.arange(len(self.pool))),
                "x_adv": result.x_adv,
                "label": self.pool.label,
                "clean": result.clean,
                "robust": result.robust,
                "fooled_by": result.fooled_by,
                "components": np.array(list(result.by_attack)),
                "prediction": prediction,
            }
            if outcome.measured.minimum is not None:
                arrays["minimum_eps"] = outcome.measured.minimum[0]
            folder.mkdir(parents=True, exist_ok=True)
            write_npz(folder / "adversarial.npz", arrays)
        return prediction

    def _transferred(self, network: Network, workdir: Workdir) -> float | None:
        """Accuracy on the adversarial images of the network before this one."""
        here = self.source.names.index((network.name, network.seed))
        if here == 0:
            return None
        path = self.folder(workdir, *self.source.names[here - 1]) / "adversarial.npz"
        with np.load(path) as file:
            x_adv = file["x_adv"]
        return float(np.mean(self.predict(network, x_adv) == self.pool.label))
