"""The images first in order by a score, or by how they were learnt."""

from collections.abc import Mapping
from typing import Any

from jaxrobust import registry
from jaxrobust.errors import unknown_name
from jaxrobust.scores import INPUTS, SCORES
from jaxrobust.tasks.choices.plan import (
    Choice,
    Plan,
    Selected,
    check_order,
    chosen_again,
    drawn,
    subset_plan,
)
from jaxrobust.tasks.ranking import score_passes, scoring_pass
from jaxrobust.tasks.setup import Setup, attack_gradients
from jaxrobust.tasks.study import Study
from jaxrobust.trackers import TRACKERS
from jaxrobust.types import TrainState


def score(
    setup: Setup,
    choice: str,
    configured: Mapping[str, Any],
    score: Mapping[str, Any],
    order: str,
    balanced: bool,
    every_epochs: int,
) -> Choice:
    """The images first in `order` by a score, `balanced` over classes or not.

    Once, with `every_epochs` 0: a network that was trained on everything looks at the
    images, then another one trains. Otherwise the trained network itself chooses again
    after that many epochs of its subset, in whole chunks of steps; the first subset is
    random.
    """
    check_order(order)
    scoring = scoring_pass(setup, {"score": registry.build("score", SCORES, score)})
    gradients = attack_gradients(setup.config["score"]["attack"])
    passes = score_passes(score, gradients)

    def once(study: Study, share: float, seed: int, steps: int) -> Plan:
        ranked = study.ranked(choice, scoring, passes, seed)
        return subset_plan(study, choice, ranked, share, seed, configured)

    def again(study: Study, share: float, seed: int, steps: int) -> Plan:
        def select(name: str, step: int, state: TrainState | None) -> Selected:
            ranked = study.look_now(name, scoring, passes, state, seed, step)
            subset, costs = study.chosen(name, ranked, share, seed, configured)
            return Selected(subset, costs, {})

        first = drawn(study, share, seed)
        size = len(first.index)
        period = study.whole_chunks(every_epochs * size / study.batch_size)
        return chosen_again(
            study, choice, share, seed, steps, first, (period, period), size, select
        )

    return Choice(again) if every_epochs else Choice(once, ranked=True)


def history(
    choice: str,
    configured: Mapping[str, Any],
    tracker: str,
    on: str,
    order: str,
    balanced: bool,
) -> Choice:
    """The images first in `order` by how they were learnt: a network was trained on
    everything, and now and then looked at all of them, `on` clean or attacked ones."""
    check_order(order)
    if on not in INPUTS:
        raise unknown_name("input of the tracker", on, INPUTS)
    built = registry.lookup("tracker", TRACKERS, tracker)()

    def plan(study: Study, share: float, seed: int, steps: int) -> Plan:
        ranked = study.tracked(built, on, seed)
        return subset_plan(study, choice, ranked, share, seed, configured)

    return Choice(plan, ranked=True, histories=True)
