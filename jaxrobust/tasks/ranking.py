"""Ranking a pool with a trained network: score every image, choose, say what was done.

Times leave compilation out: each program runs once before it is timed.
"""

import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrobust import registry, rng, sharding
from jaxrobust.errors import UserError
from jaxrobust.loader import padded_rows
from jaxrobust.scores import SCORES, AnyScore, w_bdy, w_nat
from jaxrobust.selection import (
    Manifest,
    ScoringPass,
    keep_top,
    padded_size,
    take_top,
)
from jaxrobust.tasks.setup import Config, Setup, build_attack
from jaxrobust.tasks.trainer import Trainer
from jaxrobust.types import TrainState

MIXED = 6 << 32
"""The random stream of the order in which equal scores are taken."""


def build_scoring(setup: Setup) -> ScoringPass:
    """The scoring pass of `config.score`: the ranking score and both of its risks."""
    scores = {
        "score": registry.build("score", SCORES, setup.config["score"]["ranking"]),
        "w_nat": w_nat("softmax"),
        "w_bdy": w_bdy("softmax"),
    }
    return scoring_pass(setup, scores)


def scoring_pass(setup: Setup, scores: Mapping[str, AnyScore]) -> ScoringPass:
    """A pass of these scores under the attack of `config.score`."""
    spec: Config = setup.config["score"]
    attack = build_attack("scoring attack", spec["attack"], setup.threat)
    sharding.check_batch_size(spec["batch_size"], setup.mesh)
    return ScoringPass(attack, scores, spec["batch_size"], setup.mesh)


def score_pool(
    trainer: Trainer,
    scoring: ScoringPass,
    state: TrainState,
    index: np.ndarray,
    seed: int,
) -> tuple[dict[str, np.ndarray], float]:
    """What `scoring` gives pool positions `index` by the network, [N, ...] each; and
    the seconds that took."""
    mesh = trainer.setup.mesh
    run = lambda *given: sharding.gather(scoring(*given), mesh)
    scores, seconds = _scored(trainer, scoring, run, state, index, seed)
    return {
        name: np.asarray(value)[: len(index)] for name, value in scores.items()
    }, seconds


def _scored(
    trainer: Trainer,
    scoring: ScoringPass,
    run: Callable[..., dict[str, Array]],
    state: TrainState,
    index: np.ndarray,
    seed: int,
) -> tuple[dict[str, Array], float]:
    """What `run`, one of the ways to call `scoring`, gives and takes."""
    purpose = rng.purpose_key(seed, "score")
    key = sharding.replicate_key(purpose, trainer.setup.mesh)
    network = trainer.frozen(state)
    if not scoring.compiled:
        jax.block_until_ready(scoring(network, trainer.feed, index[:1], key))
    start = time.monotonic()
    # Whole batches, cut by NumPy: on the device every size would be a new program.
    whole = padded_rows(index, scoring.batch_size)[0].ravel()
    found = jax.block_until_ready(run(network, trainer.feed, whole, key))
    return found, time.monotonic() - start


def choose(
    trainer: Trainer,
    scores: Mapping[str, np.ndarray],
    index: np.ndarray,
    seed: int,
    budget: int,
    order: str,
    balanced: bool,
) -> Manifest:
    """Keep `budget` of the pool positions `index`, by `scores["score"]` f32[N].

    Of equal scores random ones are taken, so that the order of files never counts.
    Raises `UserError` if a score is not finite.
    """
    score, devices = scores["score"], trainer.setup.mesh.devices.size
    _check_finite(np.isfinite(score).all())
    wanted = (index, seed, budget, order, balanced)
    if devices == 1:
        kept, seconds = _keep(trainer, score, *wanted)
    else:
        width = -(-padded_size(len(index)) // devices) * devices
        filled = np.pad(score, (0, width - len(index)))[None]
        spread = sharding.lay_columns(filled, trainer.setup.mesh)
        kept, seconds = _keep_spread(trainer, spread, *wanted)
    return _chosen(trainer, index, kept, scores, {"select_seconds": seconds})


def _check_finite(finite: Any) -> None:
    if not finite:
        raise UserError(
            "a score is not finite: the network diverged; lower optim.learning_rate"
        )


def _keep(trainer, score, index, seed, budget, order, balanced):
    """(bool[N], seconds) of a choice on one device."""
    mesh, mixed = trainer.setup.mesh, rng.permutation(seed, MIXED, len(index))
    label, size = trainer.pool.label[index], len(index)
    fill = lambda x: np.pad(x, (0, padded_size(size) - size))
    mixed_columns = (fill(score[mixed]), fill(label[mixed]))
    of_score, of_class = sharding.replicate(mixed_columns, mesh)
    key = sharding.replicate_key(rng.purpose_key(seed, "select"), mesh)
    take = lambda: np.asarray(
        take_top(of_score, of_class, key, size, budget, order, balanced)
    )
    chosen, seconds = _timed(take)
    kept = np.zeros(size, bool)
    kept[mixed[chosen]] = True
    return kept, seconds


def _keep_spread(trainer, score, index, seed, budget, order, balanced):
    """The same of scores f32[S,B] that lie over several devices, in the order of
    `index`; only what was chosen is told to all of them."""
    mesh, size = trainer.setup.mesh, len(index)
    place = np.empty(size, np.int32)
    place[rng.permutation(seed, MIXED, size)] = np.arange(size)

    def lay(column: np.ndarray, fill: int) -> Array:
        filled = np.pad(column, (0, score.size - size), constant_values=fill)
        return sharding.lay_columns(filled.reshape(score.shape), mesh)

    given = (score, lay(trainer.pool.label[index], 0), lay(place, size))
    _check_finite(_all_finite(*given[::2], size))
    key = sharding.replicate_key(rng.purpose_key(seed, "select"), mesh)
    classes, total = len(trainer.pool.class_names), padded_size(size)
    options = (key, size, budget, order, balanced, classes, total, mesh)
    kept, seconds = _timed(
        lambda: np.asarray(sharding.gather(keep_top(*given, *options), mesh))
    )
    return kept.reshape(-1)[:size], seconds


@jax.jit
def _all_finite(score: Array, place: Array, size: int) -> Array:
    return jnp.all(jnp.isfinite(score) | (place >= size))


def _timed(take: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """What it gives, and its seconds without compilation."""
    take()
    start = time.monotonic()
    return take(), time.monotonic() - start


def _chosen(trainer, index, kept, scores, facts) -> Manifest:
    weight = np.ones(len(index), np.float32)
    return Manifest(manifest_columns(trainer, index, kept, weight, scores), facts)


def manifest_columns(
    trainer: Trainer,
    index: np.ndarray,
    kept: np.ndarray,
    weight: np.ndarray,
    scores: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """What a manifest has of pool positions `index`, all [N]."""
    return {
        **scores,
        "index": index.astype(np.int64),
        "source_row": trainer.pool.source_rows[index],
        "weight": weight,
        "kept": kept,
        "label": trainer.pool.label[index],
        "generated": index >= trainer.pool.num_original,
    }


def score_passes(spec: Config, gradients: float) -> float:
    """Forward passes of an image that a score takes under an attack of so many
    gradients, each of them two."""
    attack = 2 * gradients + 1
    if spec["name"] in ("robust_risk", "w_bdy"):
        return attack + 1
    known = inspect.signature(SCORES[spec["name"]]).parameters
    on = spec.get("on", known["on"].default if "on" in known else "clean")
    own = 1 if spec["name"] == "input_gradient" else 0
    return (attack if on == "adversarial" else 1) + own


def rank(
    trainer: Trainer,
    scoring: ScoringPass,
    state: TrainState,
    index: np.ndarray,
    seed: int,
    budget: int,
    order: str,
    balanced: bool,
) -> Manifest:
    """Score pool positions `index` with a trained network and keep `budget` of them.

    On several devices scores stay where they are made until the choice is made; then
    hosts collect them, batch by batch, for the manifest.
    """
    mesh, wanted = trainer.setup.mesh, (index, seed, budget, order, balanced)
    if mesh.devices.size == 1:
        scores, seconds = score_pool(trainer, scoring, state, index, seed)
        found = choose(trainer, scores, *wanted)
        return found._replace(facts={**found.facts, "score_seconds": seconds})
    spread, seconds = _scored(trainer, scoring, scoring.spread, state, index, seed)
    kept, selected = _keep_spread(trainer, spread["score"], *wanted)
    facts = {"select_seconds": selected, "score_seconds": seconds}
    collected = {
        name: sharding.collect_columns(value, mesh).reshape(-1)[: len(index)]
        for name, value in spread.items()
    }
    return _chosen(trainer, index, kept, collected, facts)


def describe(trainer: Trainer, ranking: Manifest, budget: int) -> dict[str, Any]:
    """What a manifest says of its data and its outcome."""
    columns, names = ranking.columns, trainer.pool.class_names
    kept, generated = columns["kept"], columns["generated"]
    per_class = np.bincount(columns["label"][kept & generated], minlength=len(names))
    splits = trainer.setup.splits
    return {
        "meaning": "kept = trained on; index < num_original is an original image, "
        "later ones are generated; source_row is the image's row in its own file",
        "budget": budget,
        "candidates": len(kept),
        "kept": int(kept.sum()),
        "num_original": trainer.pool.num_original,
        "generated_share": float(np.mean(generated[kept])),
        "generated_per_class": dict(zip(names, per_class.tolist())),
        "class_names": list(names),
        "data_sha256": [part.fingerprint() for part in trainer.pool.parts],
        "provenance": splits.train.provenance,
    }
