"""Training against curvature: a step's time and arithmetic beside a plain step and a
PGD-10 step of the same network.

    python -m tests.bench.curvature_cost [--model resnet20] [--batch 32] [--rounds 8]

Each round times all of them in turn and the table has median ratios to the plain step
of the same round, beside arithmetic. With F a forward pass of the batch, the gradient
by images or by weights alone F more, both 2 F more:

    plain            loss 3 F                                                    3
    PGD-10           10 x 2 F, loss 3 F                                         23
    loss_difference  loss 3 F; slope at x 2 F; back through l(x) 2 F, l(x + h z) 3 F  10
    gradient norm    loss 3 F; slope at x 2 F, and back through it 4 F           9
    squared, norm    loss 3 F; slopes at x and x + h z 4 F, and back 8 F        15

"counted" is what the compiled step does (hlo_flops.py), convolved as XLA would.
"""

import argparse
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import sharding
from jaxrobust.objectives.curvature import curvature, gradient_norm
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.objectives.standard import standard
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import create_state, init_variables
from jaxrobust.train_step import Program, _scan, make_train_step
from jaxrobust.types import PyTree
from tests.bench import hlo_flops, step_jax
from tests.bench.flops import forward_flops
from tests.bench.train_step import batch as random_batch

OBJECTIVES = {
    "plain": (standard(), 3),
    "PGD-10": (pgd_at("adv"), 23),
    "loss_difference": (
        curvature(1.0, 0.6, "loss_difference", "gradient", "running"),
        10,
    ),
    "gradient norm": (gradient_norm(1.0, "norm", "running"), 9),
    "squared": (curvature(1.0, 0.6, "squared", "gradient", "running"), 15),
}


def make_step(model, objective):
    """(step, optimiser) of one objective, all else as in step_jax.py."""
    _, tx = step_jax.make_step(model)
    attack, options = step_jax.make_attack(), step_jax.plain_options()
    return make_train_step(model, tx, objective, attack, all_rows(), *options), tx


def runner(model, objective, image: np.ndarray, label: np.ndarray):
    """A function that trains one step and blocks."""
    step, tx = make_step(model, objective)
    mesh = sharding.make_mesh(1)
    program, key = Program(step, mesh), jax.random.key(0)
    variables = jax.jit(partial(init_variables, model, image.shape[1:]))(key)
    state = create_state(variables, tx, with_ema=False)
    held = [jax.device_put(state, sharding.replicated(mesh))]
    rows = jnp.arange(len(image), dtype=jnp.int32)[None]
    fixed = (key, jnp.asarray(image), jnp.asarray(label), rows, rows)

    def run() -> float:
        held[0], seen = program(held[0], *fixed, jnp.ones(rows.shape))
        return float(seen["loss"][-1])

    return run


def counted(model, objective, size: int) -> float:
    """Arithmetic of one compiled step in forward passes."""
    step, tx = make_step(model, objective)
    shape = (size, 32, 32, 3)

    def state() -> PyTree:
        variables = init_variables(model, shape[1:], jax.random.key(0))
        return create_state(variables, tx, with_ema=False)

    def run(state, image, label, rows, weight):
        key, mesh = jax.random.key(0), sharding.make_mesh(1)
        return _scan(step, mesh, state, key, image, label, rows, rows, weight)

    spec = jax.ShapeDtypeStruct
    rows = spec((1, size), jnp.int32)
    images = spec(shape, jnp.uint8), spec((size,), jnp.int32)
    weight = spec(rows.shape, jnp.float32)
    lowered = jax.jit(run).lower(jax.eval_shape(state), *images, rows, weight)
    flops = hlo_flops.parse(lowered.compile().as_text()).flops()
    return flops / forward_flops(model, shape)


def main() -> None:
    """One row for each objective."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    model = step_jax.make_model(args.model)
    data = random_batch(args.batch)
    runs = {name: runner(model, made, *data) for name, (made, _) in OBJECTIVES.items()}
    for warm_up in runs.values():
        warm_up()
    ratios = {name: [] for name in runs}
    for round_ in range(args.rounds):
        order = list(runs) if round_ % 2 == 0 else list(runs)[::-1]
        took = {}
        for name in order:
            start = time.perf_counter()
            runs[name]()
            took[name] = time.perf_counter() - start
        for name in runs:
            ratios[name].append(took[name] / took["plain"])
    plain = step_jax.make_model(args.model, "xla")
    print(f"{args.model}, batch {args.batch}, {args.rounds} rounds")
    for name, (made, passes) in OBJECTIVES.items():
        low, high = np.percentile(ratios[name], (25, 75))
        print(
            f"{name:16s} {statistics.median(ratios[name]):5.2f} x plain "
            f"[{low:.2f}, {high:.2f}]  sum {passes:2d} F  "
            f"counted {counted(plain, made, 4):.2f} F",
            flush=True,
        )


if __name__ == "__main__":
    main()
