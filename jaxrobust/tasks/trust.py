"""How far the outcome of an evaluation can be trusted: its checks, one line each."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrobust.attacks.machine import Component
from jaxrobust.evaluators import after, proof
from jaxrobust.evaluators.check import Check
from jaxrobust.evaluators.protocol import AutoAttackResult
from jaxrobust.tasks.measure import Measured
from jaxrobust.threat import ThreatModel

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Outcome:
    """What came out on one network: of the suite, the `farthest` that it or a control
    went, and of the attacks beside it."""

    result: AutoAttackResult
    farthest: float
    measured: Measured

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the robust accuracy."""
        robust = self.result.robust
        return proof.wilson_interval(int(robust.sum()), len(robust))

    def nested(self) -> dict[str, Any]:
        """The entries of a row that are not one number."""
        found: dict[str, Any] = {"interval": list(self.interval)}
        minimum = self.measured.minimum
        if minimum is not None:
            eps = np.sort(minimum[0])
            # An image that was never fooled has eps inf: no quantile beyond it.
            levels = [(q, float(eps[int(q * (len(eps) - 1))])) for q in QUANTILES]
            known = [list(pair) for pair in levels if np.isfinite(pair[1])]
            found["minimum_eps"] = {
                "quantiles": known,
                "never": int(np.sum(~np.isfinite(eps))),
                "non_monotone": int(minimum[1].sum()),
            }
        return found


def per_class(
    result: AutoAttackResult, label: np.ndarray, names: tuple[str, ...]
) -> dict[str, list]:
    """{class: [clean accuracy, robust accuracy, images]} of the classes that occur."""
    table = {}
    for number, name in enumerate(names):
        rows = label == number
        if rows.any():
            clean, robust = result.clean[rows].mean(), result.robust[rows].mean()
            table[name] = [float(clean), float(robust), int(rows.sum())]
    return table


def checks_after(
    outcome: Outcome,
    threat: ThreatModel,
    recount: np.ndarray,
    rounded_acc: float,
    transferred: float | None,
    trained_acc: float | None,
    dtype: str,
    version: str,
    components: tuple[Component, ...],
    num_classes: int,
) -> list[Check]:
    """Every check of `evaluators.after` and `evaluators.proof` that applies."""
    result, measured = outcome.result, outcome.measured
    clean, robust = float(np.mean(result.clean)), float(np.mean(result.robust))
    acc = {name: found.value for name, found in measured.single.items()}
    control = {name: found.value for name, found in measured.controls.items()}
    eps, values = zip(*measured.curve)
    low, high = float(np.nanmin(result.x_adv)), float(np.nanmax(result.x_adv))
    num_nan = int(np.isnan(result.x_adv).sum())
    # Noise is a control, with a check of its own, and may help by chance.
    attacked = {name: value for name, value in acc.items() if name != "noise"}
    checks = [
        after.attacks_do_not_help(clean, {**attacked, "suite": robust}),
        after.monotone_in_eps(eps, values),
        after.unbounded_reaches_zero(values[-1], eps[-1]),
        after.noise_hurts_less(clean, control["noise"], control["pgd"]),
        after.one_step_is_weaker(control["fgsm"], control["pgd"]),
        after.attack_converged(
            "PGD, 20 -> 100 steps", control["pgd"], control["pgd_long"]
        ),
        after.autoattack_near_pgd(control["pgd"], robust),
        proof.attacks_stay_in_the_ball(threat, outcome.farthest, low, high, num_nan),
        proof.flags_are_confirmed(result.robust, recount),
        proof.survives_rounding(robust, rounded_acc),
        proof.enough_images(int(result.robust.sum()), len(result.robust)),
        _all_confirmed(result),
    ]
    if "square" in result.by_attack:
        checks.append(_square(result))
    if version == "standard":
        checks.append(_name(components, dtype, num_classes, len(recount)))
    if transferred is not None:
        checks.append(after.transfer_is_weaker(robust, transferred))
    if trained_acc is not None:
        checks.append(after.clean_accuracy_as_trained(clean, trained_acc))
    return checks


def _all_confirmed(result: AutoAttackResult) -> Check:
    """A search in half precision may find what float32 does not confirm."""
    note = "successes that float32 does not confirm are not counted"
    value = f"{result.refused} refused"
    return Check("successes hold in float32", result.refused == 0, value, note)


def _square(result: AutoAttackResult) -> Check:
    names = list(result.by_attack)
    here = names.index("square")
    white = result.by_attack[names[here - 1]] if here else result.clean
    with_square = float(np.mean(result.by_attack["square"]))
    return after.black_box_adds_little(float(np.mean(white)), with_square)


def _name(
    components: tuple[Component, ...], dtype: str, num_classes: int, count: int
) -> Check:
    options = {c.name: dict(c.options) for c in components}
    return proof.named_as_published(
        components=[component.name for component in components],
        num_steps=min(o["num_steps"] for o in options.values() if "num_steps" in o),
        # In l1 the published APGD aims at 5 classes, FAB at 9 as everywhere.
        num_targets=max(c.runs for c in components if c.targeted),
        num_queries=options.get("square", {}).get("num_queries", 0),
        dtype=dtype,
        num_classes=num_classes,
        num_images=count,
        all_images=count,
    )
