"""Ways to choose training images, at equal gradient steps, epochs or time."""

import time

from jaxrobust.errors import unknown_name
from jaxrobust.evaluators.suites import suite
from jaxrobust.tasks.card import accuracy_checks, seeds_check
from jaxrobust.tasks.choices import build_choices
from jaxrobust.tasks.comparison import RULES, Comparison, row_name
from jaxrobust.tasks.finish import finish
from jaxrobust.tasks.leaderboard import write_leaderboard
from jaxrobust.tasks.results import difference, verdict
from jaxrobust.tasks.rows import collapse_checks
from jaxrobust.tasks.setup import Config, Setup, build_setup


def compare(config: Config, path: str) -> None:
    """The task: choices x budgets x rules x seeds, each against random choice."""
    started = time.monotonic()
    setup = build_setup(config)
    _check(setup, config["comparison"])
    comparison = Comparison(setup, build_choices(setup), path)
    comparison.run()
    results = comparison.results
    checks = [
        seeds_check(setup),
        *accuracy_checks(results.runs, setup),
        *collapse_checks(results.runs),
    ]
    write_leaderboard(comparison.workdir, setup, results.runs)
    answer = _answer(comparison)
    finish(setup, comparison.trainer, results, answer, checks, started)


def _check(setup: Setup, spec: Config) -> None:
    for rule in spec["rules"]:
        if rule not in RULES:
            raise unknown_name("rule", rule, RULES)
    if spec["autoattack"]:
        suite(spec["autoattack"], setup.threat.norm, setup.splits.num_classes)


def _answer(comparison: Comparison) -> str:
    """Every choice against each way to draw at random, at the same budget; only what
    can be told from chance is named."""
    chance = [name for name, c in comparison.choices.items() if c.by_chance]
    pairs = [
        _against(comparison, rule, name)
        for rule in comparison.spec["rules"]
        for name in sorted(chance)
    ]
    return " ".join(filter(None, pairs)) + (
        " In points of accuracy under PGD; named is what differs at 95%, as one in "
        "twenty would by luck."
    )


def _against(comparison: Comparison, rule: str, reference: str) -> str:
    """The choices that are higher or lower than `reference` under this rule."""
    results = comparison.results
    known = {row["name"] for row in results.runs}
    told, count = {"higher": [], "lower": []}, 0
    for name, share in comparison.cells():
        first, second = (row_name(n, share, rule) for n in (name, reference))
        # Everything has no random row of its own budget.
        if name == reference or not {first, second} <= known:
            continue
        count += 1
        found = verdict(results, first, second, "pgd_acc")
        gap = 100 * difference(results, first, second, "pgd_acc")[0]
        for side, names in told.items():
            if found.endswith(side):
                names.append(f"{row_name(name, share, 'steps')} ({gap:+.1f})")
    if not count:
        return ""
    listed = "; ".join(
        f"{side} {', '.join(names) or 'none'}" for side, names in told.items()
    )
    return f"Of {count} at equal {rule}, against {reference}: {listed}."
