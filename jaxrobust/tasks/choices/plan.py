"""What a way to choose training images promises a comparison."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from jaxrobust import rng
from jaxrobust.errors import unknown_name
from jaxrobust.samplers import FixedSampler, PeriodicSampler, Sampler
from jaxrobust.selection import ORDERS
from jaxrobust.tasks.setup import Method
from jaxrobust.tasks.study import Costs, Ranked, Study
from jaxrobust.types import Subset, TrainState

ONCE = 997
"""The random stream of subsets that are drawn once."""


class Selected(NamedTuple):
    """A subset, what choosing it took, and numbers of it for a row."""

    subset: Subset
    costs: Costs
    facts: dict[str, float]


class Plan(NamedTuple):
    """How one network trains: on `images` an epoch by `sampler`. `costs()` and
    `facts()`, numbers for its row, are asked after the training, as some choices are
    made on the way."""

    method: Method
    sampler: Sampler
    images: int
    costs: Callable[[], Costs] = Costs
    facts: Callable[[], dict[str, float]] = dict


@dataclass(frozen=True)
class Choice:
    """`plan(study, share, seed, steps)` makes a plan for a budget, a share of the
    images, and so many steps.

    `by_chance`: no image is looked at; `whole`: there is nothing to choose, so one
    budget, of everything, is enough; `ranked`: by a ranking network; `histories`: which
    must look at the pool on its way; `methods`: what is trained with at each budget,
    where that is the choice's own.
    """

    plan: Callable[[Study, float, int, int], Plan]
    by_chance: bool = False
    whole: bool = False
    ranked: bool = False
    histories: bool = False
    methods: Mapping[float, Method] | None = None


def drawn(study: Study, share: float, seed: int) -> Subset:
    """A share of the images, drawn once."""
    return Subset.uniform(rng.host_choice(seed, ONCE, study.size, study.budget(share)))


def subset_plan(
    study: Study,
    choice: str,
    ranked: Ranked,
    share: float,
    seed: int,
    configured: Mapping[str, Any],
) -> Plan:
    """Training on the subset of a ranking."""
    name = file_name(choice, share, seed)
    subset, costs = study.chosen(name, ranked, share, seed, configured)
    return fixed_plan(study, subset, seed, costs)


def fixed_plan(study: Study, subset: Subset, seed: int, costs: Costs) -> Plan:
    """Training on one subset."""
    sampler = FixedSampler(subset, seed, study.batch_size)
    return Plan(study.method, sampler, len(subset.index), lambda: costs)


def chosen_again(
    study: Study,
    choice: str,
    share: float,
    seed: int,
    steps: int,
    first: Subset,
    periods: tuple[int, int],
    images: int,
    select: Callable[[str, int, TrainState | None], Selected],
) -> Plan:
    """Training on `first` for the first of `periods`, in steps, then on what
    `select(name, step, state)` chooses and keeps as `name` after each of the second.

    Once kept it is told again without a state, so that a row is the same whichever
    process trained it. Its facts are means over the selections.
    """
    # Runs of other lengths are other networks.
    stem = f"{file_name(choice, share, seed)}-of{steps}"
    at = lambda step, state: select(f"{stem}-step{step:06d}", step, state)
    sampler = PeriodicSampler(
        first, lambda *now: at(*now).subset, *periods, seed, study.batch_size
    )
    made = lambda: [at(s, None) for s in range(steps) if sampler.chooses(s)]
    costs = lambda: sum((found.costs for found in made()), Costs())
    facts = lambda: _means([found.facts for found in made()])
    return Plan(study.method, sampler, images, costs, facts)


def _means(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: fmean(one[key] for one in found) for key in (found or [{}])[0]}


def everything(study: Study) -> Subset:
    """All images."""
    return Subset.uniform(study.everything)


def file_name(choice: str, share: float, seed: int) -> str:
    """What the manifest of a choice is called."""
    return f"seed{seed}-{choice}-{100 * share:g}"


def check_order(order: str) -> None:
    """Raises `UserError` for an unknown order."""
    if order not in ORDERS:
        raise unknown_name("order", order, ORDERS)
