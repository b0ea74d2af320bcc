"""Choices inside of the training step: a share of each batch."""

from collections.abc import Mapping
from typing import Any

from jaxrobust.tasks.choices.plan import Choice, Plan, everything, fixed_plan
from jaxrobust.tasks.setup import Setup, build_method
from jaxrobust.tasks.study import Costs, Study


def inside(
    setup: Setup,
    choice: str,
    select: Mapping[str, Any],
    method: str,
    shares: tuple[float, ...],
) -> Choice:
    """A share of each batch, chosen by the selector `select`."""
    spec = setup.config["methods"][method]
    methods = {
        share: build_method(
            f"{choice}-{100 * share:g}",
            {**spec, "select": {**select, "keep": share}},
            setup.threat,
        )
        for share in shares
    }

    def plan(study: Study, share: float, seed: int, steps: int) -> Plan:
        whole = fixed_plan(study, everything(study), seed, Costs())
        return whole._replace(method=methods[share])

    return Choice(plan, by_chance=select.get("order") == "random", methods=methods)
