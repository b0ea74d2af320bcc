"""Checks on an outcome: do the figures of an evaluation fit together?

Pure functions of accuracies (fractions in [0,1]) and arrays; a NaN fails every one.

Ref: Carlini et al., On Evaluating Adversarial Robustness, arXiv:1902.06705, section 5;
Athalye et al., arXiv:1802.00420, section 3.1 (signs of masked gradients); Pintor et
al., Indicators of Attack Failure, arXiv:2106.09947.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxrobust.evaluators.check import Check

SQUARE_GAIN = 0.002
CONVERGED = 0.01
AUTOATTACK_GAP = 0.06
NOISE_SHARE = 0.5
UNBOUNDED = 0.01
FLOAT_SLACK = 1e-9
MASKED = "the white-box attack is misled: gradients may be masked"


def monotone_in_eps(eps: Sequence[float], accuracy: Sequence[float]) -> Check:
    """That accuracy never rises with the radius, in whatever order they are given."""
    order = np.argsort(eps)
    radius, value = np.asarray(eps)[order], np.asarray(accuracy)[order]
    rises = [
        f"{value[i]:.1%} at {radius[i]:.4g}, {value[i + 1]:.1%} at {radius[i + 1]:.4g}"
        for i in range(len(value) - 1)
        if not value[i + 1] <= value[i] + FLOAT_SLACK
    ]
    falls = " > ".join(f"{v:.1%}" for v in value)
    note = "a larger ball holds the smaller one: the attack is weak or broken"
    return Check("accuracy falls with eps", not rises, "; ".join(rises) or falls, note)


def unbounded_reaches_zero(accuracy: float, eps: float) -> Check:
    """That an attack that may repaint the whole image leaves no accuracy."""
    return Check(
        "an unbounded attack reaches zero",
        bool(accuracy <= UNBOUNDED),
        f"{accuracy:.1%} at eps {eps:.4g}",
        "any image can become any other: what is left was missed by the attack",
    )


def noise_hurts_less(clean: float, noise: float, attacked: float) -> Check:
    """That noise of size eps takes less than half of what the attack takes.

    Where neither takes anything, the network may be that good or the attack that bad:
    that fails, too.
    """
    lost, lost_to_noise = clean - attacked, clean - noise
    ok = lost > 0 and lost_to_noise <= NOISE_SHARE * lost + FLOAT_SLACK
    value = f"noise takes {_points(lost_to_noise)}, the attack {_points(lost)}"
    note = "an attack no better than noise follows useless gradients"
    return Check("noise hurts far less than the attack", bool(ok), value, note)


def black_box_adds_little(white_box: float, with_square: float) -> Check:
    """That Square takes no more than 0.2 points off the worst case of the others."""
    gain = white_box - with_square
    ok = gain <= SQUARE_GAIN + FLOAT_SLACK
    value = f"Square takes {_points(gain)} more"
    return Check("a black-box attack adds little", bool(ok), value, MASKED)


def transfer_is_weaker(white_box: float, transferred: float) -> Check:
    """That images made against another network fool this one less than its own do."""
    value = f"white-box {white_box:.1%}, transferred {transferred:.1%}"
    ok = white_box <= transferred + FLOAT_SLACK
    return Check("transfer is weaker than white-box", bool(ok), value, MASKED)


def attack_converged(name: str, fewer: float, more: float) -> Check:
    """That `name` ("20 -> 100 steps", "1 -> 5 restarts") moves accuracy by at most one
    point."""
    ok = abs(fewer - more) <= CONVERGED + FLOAT_SLACK
    note = "not converged: use more steps or restarts, or another step size"
    value = f"{fewer:.1%} -> {more:.1%}"
    return Check(f"the attack has converged ({name})", bool(ok), value, note)


def attacks_do_not_help(clean: float, attacked: Mapping[str, float]) -> Check:
    """That accuracy under each attack is at most the clean accuracy."""
    rises = [name for name, value in attacked.items() if not value <= clean]
    listed = ", ".join(f"{name} {value:.1%}" for name, value in attacked.items())
    value = f"clean {clean:.1%}, {listed}"
    note = f"{', '.join(rises) or 'an attack'} that raises accuracy is broken"
    return Check("attacks do not help", not rises, value, note)


def one_step_is_weaker(fgsm: float, pgd: float) -> Check:
    """That one step fools no more images than many."""
    ok = pgd <= fgsm + FLOAT_SLACK
    value = f"FGSM {fgsm:.1%}, PGD {pgd:.1%}"
    return Check("one step is weaker than many", bool(ok), value, MASKED)


def autoattack_near_pgd(pgd: float, autoattack: float) -> Check:
    """That AutoAttack is at most 6 points below PGD-20 (3 to 4 are usual after
    adversarial training)."""
    gap = pgd - autoattack
    ok = gap <= AUTOATTACK_GAP + FLOAT_SLACK
    value = f"PGD {pgd:.1%}, AutoAttack {autoattack:.1%}, {_points(gap)} apart"
    note = "PGD is weak here or gradients are masked: do not report PGD alone"
    return Check("AutoAttack is near PGD", bool(ok), value, note)


def clean_accuracy_as_trained(measured: float, logged: float) -> Check:
    """That the clean accuracy is within a point of what the training log says."""
    ok = abs(measured - logged) <= CONVERGED + FLOAT_SLACK
    value = f"{measured:.1%}, in training {logged:.1%}"
    note = "other weights, statistics, preprocessing or data than in training"
    return Check("clean accuracy is that of training", bool(ok), value, note)


def _points(share: float) -> str:
    return f"{100 * share:.2g} points"
