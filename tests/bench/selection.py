"""Selection inside a step: time of every order against learning from everything.

    python -m tests.bench.selection [--model resnet20] [--batch 64] [--rounds 8]

All selectors keep half of the rows of PGD-10 adversarial training. Each round times
all of them in turn; the table has the median ratio to `all` of the same round beside
the arithmetic limit (selection/in_batch.py).
"""

import argparse
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses, registry, sharding
from jaxrobust.attacks.pgd import pgd_split
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.selection.in_batch import SELECTORS, passes
from jaxrobust.state import create_state, init_variables
from jaxrobust.threat import make_threat
from jaxrobust.train_step import Program, make_train_step
from tests.bench import step_jax
from tests.bench.train_step import batch as random_batch

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


def runner(model_name: str, spec: dict, image: np.ndarray, label: np.ndarray):
    """A function that trains one step and blocks."""
    model = step_jax.make_model(model_name)
    _, tx = step_jax.make_step(model)
    threat = make_threat("linf", step_jax.EPS)
    pgd = (step_jax.STEP_SIZE, step_jax.NUM_STEPS, "uniform")
    split = partial(pgd_split, threat, losses.cross_entropy, *pgd)
    given = {"threat": threat, "split": split}
    select = registry.build("selector", SELECTORS, spec, **given)
    attack = step_jax.make_attack()
    options = step_jax.plain_options()
    step = make_train_step(model, tx, pgd_at("adv"), attack, select, *options)
    mesh = sharding.make_mesh(1)
    program, key = Program(step, mesh), jax.random.key(0)
    variables = jax.jit(partial(init_variables, model, image.shape[1:]))(key)
    held = [jax.device_put(create_state(variables, tx, False), jax.devices()[0])]
    rows = jnp.arange(len(image), dtype=jnp.int32)[None]
    fixed = (key, jnp.asarray(image), jnp.asarray(label), rows, rows)

    def run() -> float:
        held[0], seen = program(held[0], *fixed, jnp.ones(rows.shape))
        return float(seen["loss"][-1])

    return run


def main() -> None:
    """Time all orders in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    data = random_batch(args.batch)
    runs = {name: runner(args.model, spec, *data) for name, spec in SPECS.items()}
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(args.rounds):
        order = list(runs) if number % 2 == 0 else list(runs)[::-1]
        for name in order:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    whole = passes(SPECS["all"], step_jax.NUM_STEPS)
    for name, spec in SPECS.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds["all"])]
        limit = passes(spec, step_jax.NUM_STEPS) / whole
        print(
            f"{name:18s} {statistics.median(ratios):.3f} of all  "
            f"[{min(ratios):.3f}, {max(ratios):.3f}]  arithmetic {limit:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
