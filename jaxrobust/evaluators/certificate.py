"""From counts of classes under noise to certified radii, and from radii to tables.

NumPy and SciPy in double precision; radii are l2 distances in [0,1] pixels.

Ref: Cohen et al., Certified Adversarial Robustness via Randomized Smoothing,
arXiv:1902.02918.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxrobust.errors import UserError
from jaxrobust.threat import ThreatModel

ABSTAIN = -1


class Certificates(NamedTuple):
    """Of B images: CERTIFY's class i64[B], `ABSTAIN` where it has none; the radius
    f64[B] within which the smoothed classifier keeps it, 0 where it abstains; the class
    `top` i64[B] that was put to the test, drawn `n0` i64[B] times while selecting and
    `nA` i64[B] times while estimating; PREDICT's class `vote` i64[B] of those last
    draws, or `ABSTAIN`."""

    predict: np.ndarray
    radius: np.ndarray
    top: np.ndarray
    n0: np.ndarray
    nA: np.ndarray
    vote: np.ndarray


def check_draws(sigma: float, n: int, alpha: float, sides: int) -> None:
    """Raises `UserError` unless n draws can ever decide at error rate `alpha`.

    Even n equal draws out of n have probability 2^-n under a fair coin: `sides` is 1
    for CERTIFY's one-sided bound, 2 for PREDICT's two-sided test.
    """
    if not sigma > 0:
        raise UserError(f"sigma must be above 0, not {sigma:g}: it is the noise's std")
    if not 0 < alpha < 1:
        raise UserError(f"alpha must be between 0 and 1, not {alpha:g}: try 0.001")
    least = least_draws(alpha, sides)
    if n < least:
        raise UserError(
            f"n = {n} draws abstain on every image at alpha {alpha:g}: use at least "
            f"n = {least}"
        )


def least_draws(alpha: float, sides: int) -> int:
    """The least n with sides * 2^-n <= alpha."""
    n = 1
    while sides * 0.5**n > alpha:
        n += 1
    return n


def clopper_pearson_lower(count: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """The exact one-sided lower bound f64 on a probability whose event came up `count`
    times in n: too high with probability at most alpha.

    Ref: Clopper and Pearson 1934; B(alpha; count, n - count + 1).
    """
    count = np.asarray(count)
    bound = stats.beta.ppf(alpha, np.maximum(count, 1), n - count + 1)
    return np.where(count > 0, bound, 0.0)


def certificates(
    selection: np.ndarray,
    estimation: np.ndarray,
    sigma: float,
    n: int,
    alpha: float,
) -> Certificates:
    """CERTIFY of counts i64[B,K]: the class by `selection`, its radius sigma Phi^-1(p)
    by n other draws; wrong with probability at most alpha for each image.

    Ref: arXiv:1902.02918, section 3.2.2, with the bound 1 - p on the runner-up.
    """
    rows, top = np.arange(len(selection)), selection.argmax(axis=1)
    n_a = estimation[rows, top]
    lower = clopper_pearson_lower(n_a, n, alpha)
    sure = lower >= 0.5
    radius = sigma * stats.norm.ppf(np.where(sure, lower, 0.5))
    return Certificates(
        predict=np.where(sure, top, ABSTAIN),
        radius=radius,
        top=top,
        n0=selection[rows, top],
        nA=n_a,
        vote=votes(estimation, alpha),
    )


def votes(counts: np.ndarray, alpha: float) -> np.ndarray:
    """PREDICT of counts i64[B,K]: the most frequent class, or `ABSTAIN` where it and
    the runner-up could be equally likely, by the two-sided binomial test.

    Ref: arXiv:1902.02918, section 3.2.1; Hung and Fithian 2019.
    """
    second, first = np.sort(counts, axis=1)[:, -2:].T
    p_value = np.minimum(2 * stats.binom.sf(first - 1, first + second, 0.5), 1.0)
    return np.where(p_value <= alpha, counts.argmax(axis=1), ABSTAIN)


def largest_radius(sigma: float, n: int, alpha: float) -> float:
    """sigma Phi^-1(alpha^(1/n)): what n draws out of n certify, and no more can be."""
    return float(sigma * stats.norm.ppf(alpha ** (1.0 / n)))


def certified_accuracy(
    radius: np.ndarray, correct: np.ndarray, radii: Sequence[float]
) -> list[float]:
    """The share of images that are classified right with a radius of at least r, for
    each r of `radii`; an abstention is never right."""
    return [float(np.mean(correct & (radius >= r))) for r in radii]


def average_radius(radius: np.ndarray, correct: np.ndarray) -> float:
    """mean_i radius_i 1[right_i]: the area under certified accuracy against radius.

    Ref: Zhai et al., MACER, arXiv:2001.02378, equation 7.
    """
    return float(np.mean(radius * correct))


def sure_accuracy(accuracy: float, alpha: float, count: int, rho: float) -> float:
    """What is left of a certified accuracy over `count` images if as many certificates
    are wrong as may be with probability at least 1 - rho.

    Wrong certificates are at most Binomial(count, alpha); its quantile is taken off.

    Deviates: the published code takes off Bernstein's bound alpha + sqrt(alpha
    (1 - alpha) ln(1/rho) / N) + ln(1/rho) / (3 N), with a factor of 2 lost under the
    root; the quantile is exact, and less wherever that bound holds.
    """
    wrong = stats.binom.ppf(1.0 - rho, count, alpha)
    return max(float(accuracy - wrong / count), 0.0)


def l2_radius(threat: ThreatModel, size: int) -> float:
    """The least l2 radius whose ball holds the threat's ball of images of `size`
    numbers: eps sqrt(size) in linf, eps in l2 and l1."""
    return float(threat.eps) * (size**0.5 if threat.norm == "linf" else 1.0)


def linf_radius(radius: float, size: int) -> float:
    """The eps of the largest linf ball inside an l2 ball of this radius."""
    return radius / size**0.5
