"""Ways to choose what a network is trained on, as a comparison names them.

A choice is built before anything is written, and makes a plan once a run is open.
"""

from jaxrobust import registry
from jaxrobust.errors import UserError
from jaxrobust.loader import steps_per_epoch
from jaxrobust.tasks.choices.chance import full, random, random_balanced, random_redrawn
from jaxrobust.tasks.choices.coreset import coreset
from jaxrobust.tasks.choices.gradients import GradientPass
from jaxrobust.tasks.choices.inside import inside
from jaxrobust.tasks.choices.plan import Choice, Plan
from jaxrobust.tasks.choices.scored import history, score
from jaxrobust.tasks.setup import Setup

__all__ = ["CHOICES", "Choice", "Plan", "build_choices"]

CHOICES = {
    "coreset": coreset,
    "full": full,
    "history": history,
    "inside": inside,
    "random": random,
    "random_balanced": random_balanced,
    "random_redrawn": random_redrawn,
    "score": score,
}


def build_choices(setup: Setup) -> dict[str, Choice]:
    """The choices of `config.comparison`; every mistake in them shows here."""
    spec = setup.config["comparison"]
    shares = tuple(spec["budgets"])
    _check_budgets(setup, shares)
    registry.lookup("method", setup.methods, spec["method"])
    if "random" not in spec["choices"]:
        raise UserError(
            "comparison.choices needs one called random: what is learnt from a choice "
            "is the difference to it"
        )
    gradients = GradientPass(setup, spec["method"])
    built = {
        name: registry.build(
            "choice", CHOICES, given, setup=setup, choice=name, configured=given,
            gradients=gradients, method=spec["method"], shares=shares,
        )
        for name, given in spec["choices"].items()
    }  # fmt: skip
    if any(choice.ranked for choice in built.values()) and spec["ranking_steps"] < 1:
        raise UserError("comparison.ranking_steps must be above 0 for these choices")
    looks = spec["ranking_steps"] >= spec["look_every_steps"] > 0
    if any(choice.histories for choice in built.values()) and not looks:
        raise UserError(
            "comparison.look_every_steps must be from 1 to ranking_steps: histories "
            "are made of looks"
        )
    return built


def _check_budgets(setup: Setup, shares: tuple[float, ...]) -> None:
    wrong = [share for share in shares if not 0 < share < 1]
    if wrong or not shares:
        raise UserError(f"comparison.budgets are shares between 0 and 1, not {shares}")
    for share in shares:
        images = round(share * len(setup.splits.train))
        steps_per_epoch(images, setup.config["train"]["batch_size"])
