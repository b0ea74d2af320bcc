"""Training against curvature: a step's time and arithmetic beside a plain step and a
PGD-10 step of the same network.

    python -m tests.bench.curvature_cost [--model resnet20] [--batch 32] [--rounds 8]

Each round times all of them in turn; the table has medians of ratios to the plain step
and to the PGD-10 step of the same round, beside arithmetic. With F a forward pass of
the batch, going back by images or by weights alone costs F, by both 2 F, and back
through a slope 4 F: 2 F up through its way down, 2 F down through its way up.

    plain            loss 3 F                                                    3
    PGD-10           10 slopes of 2 F, loss 3 F                                 23
    loss_difference  loss 3 F; slope at x 2 F; back through l(x) 2 F; l(x + h z)
                     and back 3 F                                               10
    gradient norm    loss 3 F; slope at x 2 F, and back 4 F                      9
    squared, norm    loss 3 F; slopes at x and at x + h z 2 x 2 F, and back
                     through both 2 x 4 F                                       15

That is `Objective.passes` and, for an attack, two for each of its gradients. "counted"
is what the compiled step does (hlo_flops.py), convolved as XLA would; without BatchNorm
the loss and the term share a pass at x, one F less.
"""

import argparse
import statistics
from typing import NamedTuple

import numpy as np

from jaxrobust.objectives import Objective
from jaxrobust.objectives.curvature import curvature, gradient_norm
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.objectives.standard import standard
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.train_step import make_train_step
from tests.bench import step_jax
from tests.bench.flops import compiled_step, forward_flops
from tests.bench.timing import in_turn, random_batch, ratios

COUNTED = (4, 32, 32, 3)


class Case(NamedTuple):
    """One row of the table."""

    objective: Objective
    attack_steps: int

    @property
    def passes(self) -> float:
        """Arithmetic of a step, by hand."""
        return 2 * self.attack_steps + self.objective.passes


def guard(variant: str) -> Case:
    """A step of GUARD's squeeze."""
    return Case(curvature(1.0, 0.6, variant, "gradient", "running"), 0)


CASES = {
    "plain": Case(standard(), 0),
    "PGD-10": Case(pgd_at("adv"), step_jax.NUM_STEPS),
    "loss_difference": guard("loss_difference"),
    "gradient norm": Case(gradient_norm(1.0, "norm", "running"), 0),
    "norm": guard("norm"),
    "squared": guard("squared"),
}


def make_step(model, case: Case):
    """(step, optimiser), all but the objective as in step_jax.py."""
    _, tx = step_jax.make_step(model)
    attack, options = step_jax.make_attack(), step_jax.plain_options()
    step = make_train_step(model, tx, case.objective, attack, all_rows(), *options)
    return step, tx


def counted(model, case: Case) -> float:
    """Arithmetic of the compiled step, in forward passes."""
    program = compiled_step(model, *make_step(model, case), COUNTED, chunk=1)
    return program.flops() / forward_flops(model, COUNTED)


def quartiles(found: list[float]) -> str:
    """Median and what lies around it."""
    low, high = np.percentile(found, (25, 75))
    return f"{statistics.median(found):5.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """One row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    model, data = step_jax.make_model(args.model), random_batch(args.batch)
    runs = {
        name: step_jax.runner(model, *make_step(model, case), *data, chunk=1)
        for name, case in CASES.items()
    }
    seconds = in_turn(runs, args.rounds)
    model = step_jax.make_model(args.model, "xla")
    print(f"{args.model}, batch {args.batch}, {args.rounds} rounds; [quartiles]")
    for name, case in CASES.items():
        print(
            f"{name:16s} {quartiles(ratios(seconds, name, to='plain'))} x plain  "
            f"PGD-10 {quartiles(ratios(seconds, 'PGD-10', to=name))} x this  "
            f"by hand {case.passes:4.1f} F  counted {counted(model, case):5.2f} F",
            flush=True,
        )


if __name__ == "__main__":
    main()
