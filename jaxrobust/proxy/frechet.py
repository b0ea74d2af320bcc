"""Frechet distance between Gaussian fits of two sets of features."""

import numpy as np

from jaxrobust.errors import UserError


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of features f[N,D], f[M,D].

    Squared, as is usual. Not the FID, which is this on the features of one Inception
    network; values compare between sets on the same features only. Falls with N and M
    (the fits are biased), so compare at equal sizes.

    tr (S_a S_b)^(1/2) is the sum of the singular values of A B^T, where S = A^T A: no
    matrix is squared and no root taken of a rounded zero, so fewer images than features
    do no harm.

    Ref: Heusel et al., arXiv:1706.08500, eq. 6. Deviates: no `sqrtm` of a product.
    Raises `UserError` for fewer than two images.
    """
    if min(len(a), len(b)) < 2:
        raise UserError("the Frechet distance needs at least 2 images on each side")
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    apart = a.mean(axis=0) - b.mean(axis=0)
    root_a, root_b = _root(a), _root(b)
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = (root_a**2).sum() + (root_b**2).sum() - 2 * shared
    # Never below 0 but by rounding.
    return float(apart @ apart + max(spread, 0.0))


def _root(x: np.ndarray) -> np.ndarray:
    """A matrix R of at most D rows with R^T R the covariance of x [N,D]."""
    return np.linalg.qr(x - x.mean(axis=0), mode="r") / np.sqrt(len(x) - 1)
