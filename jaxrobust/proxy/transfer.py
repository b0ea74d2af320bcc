"""What a distance between distributions bounds: the average robustness of any network.

Rob_d(h, D) = E_{(x,y)~D} inf_{h(x') != y} d(x, x').

Ref: Sehwag et al., arXiv:2104.09425, definition 1, theorem 1, corollary 2.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxrobust.errors import UserError
from jaxrobust.proxy.wasserstein import cost_matrix

SLACK = 1e-6
"""What rounding may add to a difference, as a share of the bound and by itself."""


def average_robustness(
    distance: np.ndarray, label: np.ndarray, prior: np.ndarray
) -> float:
    """The mean over the classes' prior f64[K] of their mean distance f[n], which is 0
    for misread images.

    Attacks find distances that are upper bounds of the true ones, so this is an upper
    bound of Rob_d. Raises `UserError` where a distance is not finite.
    """
    if not np.isfinite(distance).all():
        raise UserError(
            f"{int((~np.isfinite(distance)).sum())} of {len(distance)} images have no "
            "known distance to an adversarial one: search at a larger eps"
        )
    return class_mean(distance, label, prior)


def class_mean(values: np.ndarray, label: np.ndarray, prior: np.ndarray) -> float:
    """sum_k prior_k (mean of `values` f[n] over class k), as `compared` weighs them."""
    classes = np.unique(label)
    means = [values[label == k].mean() for k in classes]
    return float(prior[classes] @ np.array(means))


def borrow_missing(
    distance: np.ndarray, image: np.ndarray, label: np.ndarray, norm: str
) -> np.ndarray:
    """`distance` f[n] with inf, where an attack found nothing, replaced by the least
    distance_j + ||x_i - x_j|| over images j of the same class.

    What fools at x_j fools for x_i too, so this still bounds the true distance from
    above. Stays inf in a class where nothing was found. image f[n,...].
    """
    filled = np.array(distance, np.float64)
    for k in np.unique(label[np.isinf(filled)]):
        missing = np.flatnonzero((label == k) & np.isinf(filled))
        known = np.flatnonzero((label == k) & np.isfinite(distance))
        if len(known):
            away = cost_matrix(image[missing], image[known], norm)
            filled[missing] = (away + distance[known][None, :]).min(axis=1)
    return filled


def transfer_table(
    robustness: Mapping[str, tuple[float, float]], cwd: float, shares: Sequence[float]
) -> list[dict]:
    """Both sides of |Rob(h, pD + (1-p)D~) - Rob(h, D)| <= (1-p) CWD, a flat row for
    each network and share p of original data; p = 0 is theorem 1.

    `robustness` {network: (Rob on D, Rob on D~)}, with D~ given the class prior of D,
    in the norm of `cwd`. `holds` may be False only because an attack stayed above the
    true distances, which the theorem is about.
    """
    if not all(0 <= p <= 1 for p in shares):
        raise UserError(f"shares of original data must lie in [0,1], not {shares}")
    rows = []
    for network, (original, generated) in robustness.items():
        for p in shares:
            mixture = p * original + (1 - p) * generated
            difference, bound = abs(mixture - original), (1 - p) * cwd
            rows.append(
                {
                    "network": network,
                    "original_share": float(p),
                    "rob_original": original,
                    "rob_mixture": mixture,
                    "difference": difference,
                    "bound": bound,
                    "holds": bool(difference <= bound * (1 + SLACK) + SLACK),
                }
            )
    return rows
