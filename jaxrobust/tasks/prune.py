"""Pruning by robust risk against pruning at random, on original and hybrid data."""

import numpy as np

from jaxrobust import registry, rng, sharding
from jaxrobust.selection import Manifest, read_manifest, write_manifest
from jaxrobust.tasks.finish import finish
from jaxrobust.tasks.ranking import build_scoring, describe, rank
from jaxrobust.tasks.rebuild import Rebuilder
from jaxrobust.tasks.reconstruct import HybridRun
from jaxrobust.tasks.results import Results, verdict
from jaxrobust.tasks.rows import stage_name, train_row
from jaxrobust.tasks.setup import Config, Method
from jaxrobust.tasks.trainer import Trainer, resolve_steps
from jaxrobust.types import Subset

QUESTION = (
    "Does keeping the images of highest robust risk cost less robustness than keeping "
    "random ones, on original and on hybrid data?"
)


def prune(config: Config, path: str) -> None:
    """The task: {original, hybrid} x {heuristic, random} x keep ratios, for every seed.

    Ref: Dong et al., Towards Adversarially Robust Data-Efficient Learning with
    Generated Data, table II.
    """
    run = HybridRun(config)
    spec = config["prune"]
    method = registry.lookup("method", run.setup.methods, spec["method"])
    trainer = run.open(path, _planned_work(run, method))
    rebuilder, results = (
        Rebuilder(trainer),
        Results(trainer.workdir, config["title"], QUESTION),
    )
    for seed in config["seeds"]:
        rebuilt = rebuilder.run(seed)
        sets = {
            "original": Subset.uniform(np.arange(trainer.pool.num_original)),
            "hybrid": rebuilt.hybrid,
        }
        for kind, subset in sets.items():
            _prune_one(trainer, results, method, kind, subset, seed)
    checks = run.checks(trainer, results.runs)
    answer = _answer(results, config, method)
    finish(run.setup, trainer, results, answer, checks, run.started)


def _prune_one(
    trainer: Trainer,
    results: Results,
    method: Method,
    kind: str,
    subset: Subset,
    seed: int,
) -> None:
    """The full set, and its heuristic and random parts at every keep ratio."""
    config = trainer.setup.config
    steps = resolve_steps(config["train"], len(subset.index))
    train_row(results, trainer, method, kind, subset, seed, steps, {})
    ranking = _ranking(trainer, method, kind, subset, seed, steps)
    for ratio in config["prune"]["keep_ratios"]:
        budget = round(ratio * len(subset.index))
        best = np.argsort(-ranking.columns["score"], kind="stable")[:budget]
        parts = {
            "heuristic": subset.index[best],
            "random": subset.index[
                rng.host_choice(seed, round(1000 * ratio), len(subset.index), budget)
            ],
        }
        for choice, index in parts.items():
            name = f"{kind} {choice} {ratio:.0%}"
            part = Subset.uniform(index)
            part_steps = resolve_steps(config["train"], budget)
            costs = ranking.facts if choice == "heuristic" else {}
            train_row(results, trainer, method, name, part, seed, part_steps, costs)


def _ranking(
    trainer: Trainer, method: Method, kind: str, subset: Subset, seed: int, steps: int
) -> Manifest:
    """All images of the set by robust risk, seen by the network trained on all of
    it."""
    name = f"seed{seed}-prune-{kind}"
    folder = trainer.workdir.selections
    known = read_manifest(folder, name)
    if known is not None:
        return known
    stage = stage_name(method, kind, seed)
    fitted = trainer.train(stage, method, subset, seed, steps)
    scoring = build_scoring(trainer.setup)
    size = len(subset.index)
    ranking = rank(
        trainer, scoring, fitted.state, subset.index, seed, size, "hard", False
    )
    facts = {"method": "robust risk", "seed": seed, "step": steps, **ranking.facts}
    facts |= describe(trainer, ranking, size)
    manifest = Manifest(ranking.columns, facts)
    if sharding.is_lead():
        write_manifest(folder, name, manifest)
    return manifest


def _answer(results: Results, config: Config, method: Method) -> str:
    """Heuristic against random at every ratio, under PGD."""
    return " ".join(
        f"{kind}, {ratio:.0%} kept: heuristic - random "
        + verdict(
            results,
            f"{method.name} / {kind} heuristic {ratio:.0%}",
            f"{method.name} / {kind} random {ratio:.0%}",
            "pgd_acc",
        )
        + "."
        for kind in ("original", "hybrid")
        for ratio in config["prune"]["keep_ratios"]
    )


def _planned_work(run: HybridRun, method: Method) -> float:
    config = run.setup.config
    spec, train = config["reconstruct"], config["train"]
    size = len(run.setup.splits.train)
    rounds = run.setup.methods[spec["method"]].gradients
    a_seed = spec["rounds"] * spec["round_steps"] * rounds
    parts = [1.0, *(ratio for ratio in config["prune"]["keep_ratios"] for _ in (0, 1))]
    steps = sum(resolve_steps(train, round(part * size)) for part in parts)
    a_seed += 2 * steps * method.gradients
    return len(config["seeds"]) * train["batch_size"] * a_seed
