"""Class-conditional Wasserstein-1 distance between two labelled sets, exactly.

CWD_d(D, D~) = E_y [ W1_d(D|y, D~|y) ], y drawn from the labels of D.

Ref: Sehwag et al., arXiv:2104.09425, definition 2.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from jaxrobust import rng
from jaxrobust.data import ImageSet
from jaxrobust.errors import UserError, unknown_name

Metric = Literal["euclidean", "chebyshev", "cityblock"]
METRICS: dict[str, Metric] = {"l2": "euclidean", "linf": "chebyshev", "l1": "cityblock"}
"""Norms of a threat model, as SciPy calls them."""

EXACT_MOST = 5000
"""Points a side that are matched exactly: the time grows with the cube of it."""


class Compared(NamedTuple):
    """Equally many images of each class out of two sets, row by row of one class.

    `original`, `generated` int64[n], positions in each set; `label` i32[n], of both;
    `prior` f64[K], the share of each class in the whole original set; `label_shift` in
    [0,1], the total variation between the labels of the whole sets.
    """

    original: np.ndarray
    generated: np.ndarray
    label: np.ndarray
    prior: np.ndarray
    label_shift: float


class Conditional(NamedTuple):
    """`per_class` f64[K,...], NaN in classes without images; `mean` f64[...], over the
    prior."""

    mean: np.ndarray
    per_class: np.ndarray


def compared(
    original: ImageSet, generated: ImageSet, limit_per_class: int, seed: int
) -> Compared:
    """The images of both sets that all distances are taken between.

    Each class gives as many images as it has on the scarcer side, at most
    `limit_per_class`, drawn without replacement by (seed, class). So theorem 1's equal
    label distributions hold by construction, with the original's prior on the classes;
    `label_shift` says how unequal the whole sets are.

    Raises `UserError` for other class names or image shapes, and for a class that only
    one set has: there is no distance to what is not there.
    """
    _check_alike(original, generated)
    if limit_per_class < 1:
        raise UserError(f"limit_per_class={limit_per_class}: compare at least 1 image")
    counts = [_class_counts(images) for images in (original, generated)]
    _check_classes(counts, original.class_names)
    sizes = np.minimum(np.minimum(*counts), limit_per_class)
    first = _draw(original.label, sizes, seed, 0)
    second = _draw(generated.label, sizes, seed, 1)
    label = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    prior, other = (count / count.sum() for count in counts)
    return Compared(first, second, label, prior, float(np.abs(prior - other).sum() / 2))


def cost_matrix(a: np.ndarray, b: np.ndarray, norm: str) -> np.ndarray:
    """||a_i - b_j|| f64[n,m] of points [n,...] and [m,...], in `norm` of METRICS.

    l2 goes through a matrix product of centred points, good to about 1e-7.
    """
    if norm not in METRICS:
        raise unknown_name("norm", norm, METRICS)
    a, b = _flat(a), _flat(b)
    if norm != "l2":
        return cdist(a, b, METRICS[norm])
    centre = (a.mean(axis=0) + b.mean(axis=0)) / 2
    a, b = a - centre, b - centre
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0.0))


def wasserstein1(a: np.ndarray, b: np.ndarray, norm: str) -> float:
    """W1 between the uniform distributions on the points a [n,...] and b [n,...].

    Between equally many points of equal mass an optimal plan is a permutation, found
    exactly by the Hungarian method.

    Raises `UserError` for unequal sizes and beyond EXACT_MOST points.
    """
    if len(a) != len(b):
        raise UserError(f"exact W1 needs equal sizes, not {len(a)} and {len(b)}")
    if len(a) > EXACT_MOST:
        raise UserError(
            f"exact W1 of {len(a)} points would take too long: take at most "
            f"{EXACT_MOST}, or proxy.sinkhorn"
        )
    rows, columns = linear_sum_assignment(cost_matrix(a, b, norm))
    # Again by subtraction: the matrix product loses digits where points are equal.
    apart = _flat(a)[rows] - _flat(b)[columns]
    order = {"l2": 2, "linf": np.inf, "l1": 1}[norm]
    return float(np.linalg.norm(apart, ord=order, axis=1).mean())


def conditional(
    distance: Callable[[np.ndarray, np.ndarray], float | tuple[float, ...]],
    a: np.ndarray,
    b: np.ndarray,
    label: np.ndarray,
    prior: np.ndarray,
) -> Conditional:
    """`distance(a of a class, b of it)` of every class, and its mean over the prior.

    a, b [n,...] are rows of the same `label` i32[n], as `compared` draws them.
    """
    classes = np.unique(label)
    found = [distance(a[label == k], b[label == k]) for k in classes]
    per_class = np.full((len(prior), *np.shape(found[0])), np.nan)
    per_class[classes] = found
    return Conditional(prior[classes] @ per_class[classes], per_class)


def _check_alike(original: ImageSet, generated: ImageSet) -> None:
    if original.class_names != generated.class_names:
        raise UserError(
            f"original classes are {', '.join(original.class_names[:5])}, generated "
            f"ones {', '.join(generated.class_names[:5])}: give both the same classes"
        )
    shapes = original.image.shape[1:], generated.image.shape[1:]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"original images are {list(shapes[0])}, generated ones "
            f"{list(shapes[1])}: bring them to one size"
        )


def _check_classes(counts: list[np.ndarray], names: tuple[str, ...]) -> None:
    one_sided = np.flatnonzero((counts[0] > 0) != (counts[1] > 0))
    if len(one_sided):
        k = one_sided[0]
        side = "generated" if counts[0][k] else "original"
        raise UserError(
            f"class {names[k]!r} has no {side} image: add some, or leave the class out "
            "of both sets (data.classes)"
        )


def _class_counts(images: ImageSet) -> np.ndarray:
    return np.bincount(images.label, minlength=images.num_classes)


def _draw(label: np.ndarray, sizes: np.ndarray, seed: int, side: int) -> np.ndarray:
    """int64[sum(sizes)]: `sizes[k]` random rows of every class k, class by class."""
    chosen = []
    for k, size in enumerate(sizes):
        rows = np.flatnonzero(label == k)
        chosen.append(rows[rng.host_choice(seed, 2 * k + side, len(rows), int(size))])
    return np.concatenate(chosen)


def _flat(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(len(x), -1)
