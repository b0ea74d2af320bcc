"""Choices that look at no image: what every other one is measured by."""

from jaxrobust.data.choice import stratified
from jaxrobust.samplers import RedrawnSampler
from jaxrobust.tasks.choices.plan import Choice, Plan, drawn, everything, fixed_plan
from jaxrobust.tasks.study import Costs, Study
from jaxrobust.types import Subset


def full() -> Choice:
    """Everything."""

    def plan(study: Study, share: float, seed: int, steps: int) -> Plan:
        return fixed_plan(study, everything(study), seed, Costs())

    return Choice(plan, whole=True)


def random() -> Choice:
    """As many random images, drawn once."""

    def plan(study: Study, share: float, seed: int, steps: int) -> Plan:
        return fixed_plan(study, drawn(study, share, seed), seed, Costs())

    return Choice(plan, by_chance=True)


def random_balanced() -> Choice:
    """As many random images, drawn once, every class by its share."""

    def plan(study: Study, share: float, seed: int, steps: int) -> Plan:
        budget = study.budget(share)
        index = stratified(study.trainer.pool.label, budget, seed, "pool")
        return fixed_plan(study, Subset.uniform(index), seed, Costs())

    return Choice(plan, by_chance=True)


def random_redrawn() -> Choice:
    """As many random images, others in each epoch."""

    def plan(study: Study, share: float, seed: int, steps: int) -> Plan:
        budget = study.budget(share)
        sampler = RedrawnSampler(study.size, budget, seed, study.batch_size)
        return Plan(study.method, sampler, budget)

    return Choice(plan, by_chance=True)
