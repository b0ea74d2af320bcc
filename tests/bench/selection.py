"""Selection inside a step: time of every order against learning from everything.

    python -m tests.bench.selection [--model resnet20] [--batch 64] [--rounds 8]

All selectors keep half of the rows of PGD-10 adversarial training. Each round times
all of them in turn; the table has the median ratio to `all` of the same round beside
the arithmetic limit (selection/in_batch.py).
"""

import argparse
import statistics
from functools import partial

import jax
import numpy as np

from jaxrobust import losses, registry
from jaxrobust.attacks.pgd import pgd_split
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.selection.in_batch import SELECTORS, passes
from jaxrobust.threat import make_threat
from jaxrobust.train_step import make_train_step
from tests.bench import step_jax
from tests.bench.timing import in_turn, random_batch, ratios

HALF = {"keep": 0.5, "order": "hard"}
SPECS = {
    "all": {"name": "all"},
    "before (start)": {"name": "before_attack", "look": "start", **HALF},
    "before (clean)": {"name": "before_attack", "look": "clean", **HALF},
    "during, 1 step": {"name": "during_attack", "first_steps": 1, **HALF},
    "during, 3 steps": {"name": "during_attack", "first_steps": 3, **HALF},
    "during, all steps": {"name": "during_attack", "first_steps": 10, **HALF},
    "after": {"name": "after_attack", **HALF},
    "union (paper)": {
        "name": "union",
        "error": "cross_entropy",
        "count_minimum": False,
        **HALF,
    },
    "union, all": {
        "name": "union",
        "error": "cross_entropy",
        "count_minimum": False,
        "keep": 1.0,
        "order": "hard",
    },
}


def runner(
    model_name: str,
    spec: dict,
    image: np.ndarray,
    label: np.ndarray,
    dtype: str = "float32",
    chunk: int = 1,
):
    """A function that trains `chunk` steps and blocks."""
    model = step_jax.make_model(model_name, dtype=dtype)
    _, tx = step_jax.make_step(model)
    threat = make_threat("linf", step_jax.EPS)
    pgd = (step_jax.STEP_SIZE, step_jax.NUM_STEPS, "uniform")
    split = partial(pgd_split, threat, losses.cross_entropy, *pgd)
    given = {"threat": threat, "split": split}
    select = registry.build("selector", SELECTORS, spec, **given)
    attack = step_jax.make_attack()
    options = step_jax.plain_options(jax.device_count())
    step = make_train_step(model, tx, pgd_at("adv"), attack, select, *options)
    given = (image, label, chunk, jax.device_count())
    return step_jax.runner(model, step, tx, *given)


def main() -> None:
    """Time all orders in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    data = random_batch(args.batch)
    runs = {name: runner(args.model, spec, *data) for name, spec in SPECS.items()}
    seconds = in_turn(runs, args.rounds)
    whole = passes(SPECS["all"], step_jax.NUM_STEPS, 3.0)
    for name, spec in SPECS.items():
        found = ratios(seconds, name, to="all")
        limit = passes(spec, step_jax.NUM_STEPS, 3.0) / whole
        print(
            f"{name:18s} {statistics.median(found):.3f} of all  "
            f"[{min(found):.3f}, {max(found):.3f}]  arithmetic {limit:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
