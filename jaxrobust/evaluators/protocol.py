"""AutoAttack's protocol: the worst case over several attacks, image by image."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import sharding
from jaxrobust.attacks.machine import Component, fooled, ranked_others
from jaxrobust.evaluators.check import check_inputs, check_label_range
from jaxrobust.evaluators.engine import Cost, Engine, Finished, Images
from jaxrobust.evaluators.predict import as_tree, predict
from jaxrobust.evaluators.suites import suite, suite_name
from jaxrobust.loader import to_unit
from jaxrobust.threat import ThreatModel
from jaxrobust.types import LogitsFn

BATCH_SIZE, CHUNK_STEPS = 100, 100
CLEAN, ROBUST = -1, -2
"""Values of `Ledger.fooled_by`: misread without any attack; not fooled so far."""


@dataclass
class Ledger:
    """What is known so far; saving and restoring it resumes an evaluation.

    `fooled_by` i16[N]: the number of the component that fooled an image, CLEAN or
    ROBUST; `fooled_in` i16[N]: in which run of it; `x_adv` f32[N,H,W,C], valid where a
    component did. `finished` bool[N,runs] belongs to component number `stage`. Rows in
    flight are not recorded: they start anew with the same keys and end the same.
    """

    fooled_by: np.ndarray
    fooled_in: np.ndarray
    others: np.ndarray
    x_adv: np.ndarray
    stage: int = 0
    finished: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))
    refused: int = 0
    cost: Cost = field(default_factory=Cost)

    @property
    def robust(self) -> np.ndarray:
        """bool[N]: read right, and by no component fooled so far."""
        return self.fooled_by == ROBUST


class AutoAttackResult(NamedTuple):
    """`robust` bool[N]; `fooled_by` i16[N], the number of the component that fooled,
    -1 where none did; `by_attack` {component: bool[N] still robust after it}, in order
    and point-wise worst case; `x_adv` f32[N,H,W,C], the image itself where no component
    fooled; `clean` bool[N]; `refused`: successes that a float32 re-check did not
    confirm; `name`: what this evaluation may be called; `cost` in row passes."""

    robust: np.ndarray
    fooled_by: np.ndarray
    by_attack: dict[str, np.ndarray]
    x_adv: np.ndarray
    clean: np.ndarray
    refused: int
    name: str
    cost: Cost


@dataclass(frozen=True)
class Attacker:
    """One network under one threat: the parts that every component shares.

    `verify_fn` is the network in float32 that each success must fool again; `on_turn`
    is called with (ledger, component, share of it that is done) at every look.
    """

    engine: Engine
    threat: ThreatModel
    logits_fn: LogitsFn
    verify_fn: LogitsFn
    images: Images
    key: Array
    on_turn: Callable[[Ledger, Component, float], None]

    def attack(self, ledger: Ledger, components: tuple[Component, ...]) -> None:
        """Bring `ledger` from wherever it stands to the end of the last component."""
        for stage, component in enumerate(components):
            if stage < ledger.stage:
                continue
            self._component(ledger, stage, component)
            ledger.stage = stage + 1
            ledger.finished = np.zeros((0, 0), bool)
            self.on_turn(ledger, component, 1.0)

    def _component(self, ledger: Ledger, stage: int, component: Component) -> None:
        size = len(ledger.fooled_by)
        if not ledger.finished.size:
            ledger.finished = np.zeros((size, component.runs), bool)
        # Two runs of one image may be in flight at once: the earlier success counts, so
        # that one which a kill cut off must still be run.
        here = ledger.robust | (ledger.fooled_by == stage)
        wanted = lambda: np.arange(component.runs) < ledger.fooled_in[:, None]
        pending = here[:, None] & ~ledger.finished & wanted()
        for ended in self.engine.run(
            component, self.threat, self.logits_fn, self.images, pending, self.key,
            ledger.cost,
        ):  # fmt: skip
            self._record(ledger, stage, ended)
            pending &= wanted()
            left = pending.sum() + ended.in_flight
            share = 1.0 - left / pending.size
            self.on_turn(ledger, component, min(share, 0.99))

    def _record(self, ledger: Ledger, stage: int, ended: Finished) -> None:
        rows = np.flatnonzero(ended.found)
        if len(rows):
            place, run, x_adv = ended.place[rows], ended.run[rows], ended.x_adv[rows]
            holds = self._verify(place, x_adv)
            ledger.cost.forwards += len(rows)
            ledger.refused += int((~holds).sum())
            earlier = np.flatnonzero(holds & (run < ledger.fooled_in[place]))
            # The last write counts, so the earliest run of an image is written last.
            earlier = earlier[np.argsort(-run[earlier], kind="stable")]
            place, run = place[earlier], run[earlier]
            ledger.x_adv[place] = x_adv[earlier]
            ledger.fooled_by[place] = stage
            ledger.fooled_in[place] = run
        ledger.finished[ended.place, ended.run] = True

    def _verify(self, place: np.ndarray, x_adv: np.ndarray) -> np.ndarray:
        """bool[n]: fools the float32 network, inside the ball and the box, finite."""
        size = self.engine.batch_size
        proofs = []
        for start in range(0, len(place), size):
            rows = np.arange(start, start + size) % len(place)
            here = place[rows]
            batch = x_adv[rows], self.images.gather(here), self.images.label[here]
            good = _proof(self.threat, as_tree(self.verify_fn), *batch)
            proofs.append(np.asarray(good)[: len(place) - start])
        return np.concatenate(proofs)


@jax.jit
def _proof(threat: ThreatModel, logits_fn: LogitsFn, x_adv, image, label) -> Array:
    image = to_unit(image) if image.dtype == np.uint8 else image
    with jax.default_matmul_precision("highest"):
        wrong = fooled(logits_fn(x_adv), label)
    return wrong & threat.contains(x_adv, image)


def open_ledger(logits: np.ndarray, label: np.ndarray, x_adv: np.ndarray) -> Ledger:
    """The state before any attack, from the logits f32[N,K] of the clean images: who is
    misread already, and the wrong classes from the most likely on."""
    wrong = fooled(jnp.asarray(logits), jnp.asarray(label))
    others = ranked_others(jnp.asarray(logits), jnp.asarray(label))
    fooled_by = np.where(np.asarray(wrong), CLEAN, ROBUST).astype(np.int16)
    never = np.full(len(label), np.iinfo(np.int16).max, np.int16)
    ledger = Ledger(fooled_by, never, np.asarray(others), x_adv)
    ledger.cost.forwards += len(label)
    return ledger


def summarise(
    ledger: Ledger, components: tuple[Component, ...], image: np.ndarray, name: str
) -> AutoAttackResult:
    """The result of a finished ledger over images f32[N,H,W,C]."""
    by = ledger.fooled_by
    after = {
        component.name: (by == ROBUST) | (by > stage)
        for stage, component in enumerate(components)
    }
    attacked = (by >= 0)[:, None, None, None]
    return AutoAttackResult(
        robust=ledger.robust,
        fooled_by=np.where(by >= 0, by, -1).astype(np.int16),
        by_attack=after,
        x_adv=np.where(attacked, ledger.x_adv, image),
        clean=by != CLEAN,
        refused=ledger.refused,
        name=name,
        cost=ledger.cost,
    )


def autoattack(
    logits_fn: LogitsFn,
    image: Array | np.ndarray,
    label: Array | np.ndarray,
    threat: ThreatModel,
    *,
    key: Array,
    version: str = "standard",
    components: Iterable[str] = (),
    batch_size: int = BATCH_SIZE,
    mesh: Mesh | None = None,
) -> AutoAttackResult:
    """Attack images f32[N,H,W,C] in [0,1] with labels i32[N], the published way.

    Attacks run in turn, each from the original images on those that are still robust;
    an image counts as robust if none fools it. Flags depend on `key` and on the place
    of an image in the set, not on `batch_size`. The network is `logits_fn(x)`, or
    `logits_fn(x, keys)` for version "rand". The devices of `mesh` share every batch,
    None: one device does it all.

    Raises `UserError` for what `check_inputs` refuses, labels that the network has no
    logit for, and unknown versions and components.

    Ref: Croce and Hein, arXiv:2003.01690. Deviates: an image leaves as soon as it is
    fooled; every success is checked again in float32; randomness is keyed by image.
    """
    check_inputs(image, label, threat)
    image, label = np.asarray(image, np.float32), np.asarray(label, np.int32)
    mesh = mesh or sharding.make_mesh(1)
    devices = mesh.devices.size
    size = ceil(min(batch_size, len(label)) / devices) * devices
    # Wherever the weights lie now: arguments of one program share their devices.
    here = sharding.replicated(mesh)
    logits_fn, key = jax.device_put((as_tree(logits_fn), key), here)
    quiet_fn = logits_fn
    if version == "rand":
        quiet_fn = jax.tree_util.Partial(_one_draw, logits_fn, key)
    gather = lambda index: image[index]
    logits = predict(quiet_fn, gather, len(label), size)
    check_label_range(label, logits.shape[1])
    ledger = open_ledger(logits, label, np.zeros_like(image))
    images = Images(gather, label, ledger.others, np.arange(len(label), dtype=np.int32))
    chosen = suite(version, threat.norm, ledger.others.shape[1] + 1, tuple(components))
    engine = Engine(size, CHUNK_STEPS, mesh)
    attacker = Attacker(
        engine, threat, logits_fn, quiet_fn, images, key, lambda *_: None
    )
    attacker.attack(ledger, chosen)
    name = suite_name(version, ledger.others.shape[1] + 1, chosen)
    return summarise(ledger, chosen, image, name)


def _one_draw(logits_fn: LogitsFn, key: Array, x: Array) -> Array:
    """A random network's logits for one draw, by which a success is judged."""
    return logits_fn(x, jax.random.split(key, len(x)))  # pyright: ignore[reportCallIssue]
