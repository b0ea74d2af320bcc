"""Checks on the adversarial images themselves, and on what may be claimed of them."""

import math
from collections.abc import Sequence

import numpy as np

from jaxrobust.evaluators.check import Check
from jaxrobust.threat import ThreatModel

DISAGREEMENTS = 1e-3
ROUNDING = 0.05
WIDE = 0.10
Z_95 = 1.959963984540054


def attacks_stay_in_the_ball(
    threat: ThreatModel, distance: float, low: float, high: float, num_nan: int
) -> Check:
    """That the farthest x_adv is within eps (to rounding: `ThreatModel.reach`), all
    pixels in [0,1], none NaN."""
    eps, reach = (float(np.max(np.asarray(x))) for x in (threat.eps, threat.reach))
    near = distance <= reach
    ok = near and low >= 0 and high <= 1 and num_nan == 0
    value = (
        f"largest {threat.norm} distance {distance:.6f}, eps {eps:.6f}, pixels in "
        f"{low:g}..{high:g}, {num_nan} NaN"
    )
    note = "measured on every attacked image"
    return Check("attacks stay in the ball", bool(ok), value, note)


def flags_are_confirmed(flags: np.ndarray, recount: np.ndarray) -> Check:
    """That still-right flags bool[N] agree with a float32 recount on the stored x_adv,
    but for one image in a thousand (other batch shapes may use other kernels)."""
    flags, recount = np.asarray(flags, bool), np.asarray(recount, bool)
    wrong = int(np.sum(flags != recount))
    ok = wrong <= DISAGREEMENTS * len(flags)
    note = "reported flags must follow from the stored images"
    value = f"{wrong} of {len(flags)} differ"
    return Check("flags agree with a recount", ok, value, note)


def rounded(x_adv: np.ndarray) -> np.ndarray:
    """x_adv as it reads back from an 8-bit file, f32[N,H,W,C]; it may leave the ball by
    half a level."""
    return (np.rint(np.asarray(x_adv) * 255.0) / 255.0).astype(np.float32)


def survives_rounding(accuracy: float, rounded_accuracy: float) -> Check:
    """That 8-bit copies of x_adv fool the network as well, to five points (an attack
    that stops at its first success ends close to the boundary)."""
    ok = abs(rounded_accuracy - accuracy) <= ROUNDING
    value = f"{accuracy:.1%}, on 8-bit copies {rounded_accuracy:.1%}"
    note = "an attack that files cannot hold: report the figure on rounded copies, too"
    return Check("attacks survive 8-bit rounding", bool(ok), value, note)


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share:

    (p + z^2/2n -+ z sqrt(p (1-p) / n + z^2/4n^2)) / (1 + z^2/n).

    Ref: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    share, z2 = right / count, Z_95**2
    middle = share + z2 / (2 * count)
    reach = Z_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    scale = 1 + z2 / count
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def enough_images(right: int, count: int) -> Check:
    """That the 95 % interval of an accuracy is at most 10 points to either side."""
    low, high = wilson_interval(right, count)
    value = f"{right / count:.1%} of {count}, 95% interval {low:.1%} to {high:.1%}"
    note = "differences within the interval are no result"
    return Check("enough images", (high - low) / 2 <= WIDE, value, note)


STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")


def named_as_published(
    components: Sequence[str],
    num_steps: int,
    num_targets: int,
    num_queries: int,
    dtype: str,
    num_classes: int,
    num_images: int,
    all_images: int,
) -> Check:
    """That the outcome may be called AutoAttack (standard); else what it is instead.

    Ref: Croce and Hein, arXiv:2003.01690: 100 steps, 9 targets, 5000 queries.
    """
    departures = [
        text
        for text, kept in (
            (", ".join(components), tuple(components) == STANDARD),
            (f"{num_steps} steps", num_steps == 100),
            (f"{num_targets} targets", num_targets == 9),
            (f"{num_queries} queries", num_queries == 5000),
            (dtype, dtype == "float32"),
            (f"{num_classes} classes", num_classes >= 10),
            (f"{num_images} of {all_images} images", num_images == all_images),
        )
        if not kept
    ]
    value = "; ".join(departures) or "AutoAttack (standard)"
    note = "report the list, not the name, of anything else: figures do not compare"
    name = "may be called AutoAttack (standard)"
    return Check(name, not departures, value, note)
