"""One row of a results table: a method trained on a subset, evaluated on the test
set."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from jaxrobust import memory
from jaxrobust.data.image_set import gather
from jaxrobust.evaluators import autoattack
from jaxrobust.tasks.card import Check
from jaxrobust.tasks.fit import Fitted
from jaxrobust.tasks.probe import overfitted
from jaxrobust.tasks.results import Results, Row
from jaxrobust.tasks.setup import Method, Setup
from jaxrobust.tasks.trainer import Trainer
from jaxrobust.types import LogitsFn, Subset
from jaxrobust.workdir import stage_folder


def train_row(
    results: Results,
    trainer: Trainer,
    method: Method,
    kind: str,
    subset: Subset,
    seed: int,
    steps: int,
    selection_costs: Mapping[str, float],
) -> Row:
    """The row "<method> / <kind>" of `seed`: trained for `steps`, evaluated, kept.

    `selection_costs` is what choosing the subset took: its `score_seconds` and
    `select_seconds`, and the training that the choice needed as `rounds_seconds`.
    """

    def facts(fitted: Fitted) -> Row:
        generated = subset.index >= trainer.pool.num_original
        return {
            "train_images": len(subset.index),
            **_selection(trainer, method, subset),
            "generated_share": float(generated.mean()),
            "score_seconds": selection_costs.get("score_seconds", 0.0),
            "select_seconds": selection_costs.get("select_seconds", 0.0),
            "rounds_seconds": selection_costs.get("train_seconds", 0.0)
            + selection_costs.get("attack_seconds", 0.0),
            "baseline": _is_baseline(method, kind),
        }

    fit = lambda stage: trainer.train(stage, method, subset, seed, steps)
    return fitted_row(results, trainer, method, kind, seed, steps, fit, facts)


def fitted_row(
    results: Results,
    trainer: Trainer,
    method: Method,
    kind: str,
    seed: int,
    steps: int,
    fit: Callable[[str], Fitted],
    facts: Callable[[Fitted], Row],
    beside: float = 0.0,
) -> Row:
    """The row "<method> / <kind>" of `seed`, by `fit(stage)` and with `facts(fitted)`
    beside what every row has; `beside` is the work that `facts` adds to training."""
    name = f"{method.name} / {kind}"
    if results.find(name, seed) is not None:
        trainer.progress.skip(trainer.stage("", method, steps).work + beside)

    def compute() -> Row:
        fitted = fit(stage_name(method, kind, seed))
        return {**measured(trainer, method, fitted, steps), **facts(fitted)}

    return results.row(name, seed, compute)


def measured(trainer: Trainer, method: Method, fitted: Fitted, steps: int) -> Row:
    """What a trained network can do, and where the time of its training went."""
    attack = trainer.attack_seconds(method, fitted.state, steps)
    return {
        **trainer.evaluate(fitted.state),
        **fitted.probe,
        **spent(fitted, steps, attack),
    }


def spent(fitted: Fitted, steps: int, attack_seconds: float) -> Row:
    """What a training of `steps` took, of which its attacks took `attack_seconds`."""
    attack = min(attack_seconds, fitted.seconds)
    return {
        "steps": steps,
        "attack_seconds": attack,
        "train_seconds": fitted.seconds - attack,
        "compile_seconds": fitted.compile_seconds,
        "memory_bytes": fitted.memory_bytes,
        "peak_memory_bytes": memory.peak(),
    }


def suite_row(
    logits_fn: LogitsFn, setup: Setup, index: np.ndarray, version: str
) -> Row:
    """What AutoAttack leaves of the test images at `index` [n]."""
    test = setup.splits.test
    found = autoattack(
        logits_fn,
        gather(test.image, index).astype(np.float32) / 255.0,
        test.label[index],
        setup.threat,
        key=jax.random.key(0),
        version=version,
        mesh=setup.mesh,
    )
    return {"aa_acc": float(np.mean(found.robust)), "suite_name": found.name}


def _is_baseline(method: Method, kind: str) -> bool:
    """Whether the row is there to compare with: nothing is chosen, or by chance."""
    spec = method.selection.spec
    chooses = spec["name"] != "all" and spec["order"] != "random"
    return method.objective.inner is None or (kind != "hybrid" and not chooses)


def _selection(trainer: Trainer, method: Method, subset: Subset) -> Row:
    """What is selected inside of the step; nothing where all rows are learnt."""
    spec = method.selection.spec
    if spec["name"] == "all":
        return {}
    batch_size = trainer.setup.config["train"]["batch_size"]
    epoch = {"steps_per_epoch": len(subset.index) // batch_size}
    if method.selection.adaptive:  # its share and its cost change as it goes
        return {"selection": "adaptive", **epoch}
    share = {"keep": spec["keep"], "relative_cost": method.relative_cost}
    return {"selection": spec["name"], **share, **epoch}


def stage_name(method: Method, kind: str, seed: int) -> str:
    """The directory of a row's checkpoints."""
    return stage_folder(f"{method.name} / {kind}", seed)


def collapse_checks(rows: list[Row]) -> list[Check]:
    """That no adversarially trained network fell to several attack steps while
    withstanding one; nothing where no network was probed."""
    looks = ("val_pgd_acc", "train_pgd_acc")
    probed = [r for r in rows if any(k in r for k in looks) and r["attack_seconds"] > 0]
    if not probed:
        return []
    fallen = [f"{r['name']} seed {r['seed']}" for r in probed if overfitted(r)]
    return [
        Check(
            "no catastrophic overfitting",
            not fallen,
            ", ".join(fallen) or f"none of {len(probed)} networks",
            "FGSM accuracy high and PGD accuracy near zero, on non-test images",
        )
    ]
