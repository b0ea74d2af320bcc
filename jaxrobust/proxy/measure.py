"""All about a generated pool and the data it stands for: the contents of proxy.json."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np
from jax import Array
from jax.tree_util import Partial

from jaxrobust import rng
from jaxrobust.data import ImageSet
from jaxrobust.errors import UserError
from jaxrobust.proxy.frechet import frechet_distance
from jaxrobust.proxy.sinkhorn import sinkhorn
from jaxrobust.proxy.transfer import (
    average_robustness,
    borrow_missing,
    class_mean,
    transfer_table,
)
from jaxrobust.proxy.wasserstein import (
    EXACT_MOST,
    Compared,
    Conditional,
    compared,
    conditional,
    cost_matrix,
    wasserstein1,
)
from jaxrobust.types import LogitsFn

FeatureFn = Callable[[Array], Array]
"""f32[B,H,W,C] pixels in [0,1] -> embedding f32[B,D]."""

Sides = tuple[np.ndarray, np.ndarray]
"""Something of the compared original and of the compared generated images, [n,...]."""

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BATCH = 256
REGULARISER_SHARE = 0.02
"""The entropic regulariser, as a share of the mean cost."""
SINKHORN_STEPS, SINKHORN_TOLERANCE = 2000, 1e-3


def explain(
    original: ImageSet,
    generated: ImageSet,
    networks: Mapping[str, tuple[LogitsFn, FeatureFn]],
    distances: Mapping[str, Sides],
    norm: str,
    limit_per_class: int,
    seed: int,
) -> dict:
    """Distances between two sets, and what they bound for each network; ready for JSON.

    Images are those of `compared(original, generated, limit_per_class, seed)`, in its
    order. `distances` {network: (f[n] of its original, f[n] of its generated images)}
    are the distances in `norm`, the threat's, to the nearest adversarial image that an
    attack found: inf where none, anything for misread images, which count as 0.

    `spaces`: CWD on pixels in `norm` (the only one that bounds Rob) and, in l2, on the
    embedding of each network: `cwd` (an upper bound beyond EXACT_MOST images a class,
    with `lower` below it) and `floor`, the same between halves of the original images.
    `frechet` likewise on embeddings. `networks`: accuracy and Rob on both sets.
    `transfer`: rows of `transfer_table`.

    Raises `UserError` as `compared` and `average_robustness` do, for unknown networks
    and for distances of another length.
    """
    pair = compared(original, generated, limit_per_class, seed)
    _check(networks, distances, len(pair.label))
    image = _pixels(original, pair.original), _pixels(generated, pair.generated)
    names = original.class_names
    spaces = [_space("pixels", image, pair, norm, names, seed)]
    frechet, rows, robustness = [], [], {}
    for name, (logits_fn, feature_fn) in networks.items():
        features = _both(feature_fn, image)
        spaces.append(_space(name, features, pair, "l2", names, seed))
        frechet.append({"network": name, **_frechet(features, pair, seed)})
        row = _network(logits_fn, distances.get(name), image, pair, norm)
        rows.append({"network": name, **row})
        if name in distances:
            robustness[name] = row["rob_original"], row["rob_generated"]
    whole = {"original": len(original), "generated": len(generated)}
    return {
        "norm": norm,
        "seed": seed,
        "limit_per_class": limit_per_class,
        "images": {**whole, "compared": len(pair.label)},
        "label_shift": pair.label_shift,
        "spaces": spaces,
        "frechet": frechet,
        "networks": rows,
        "transfer": transfer_table(robustness, spaces[0]["cwd"], SHARES),
    }


def _space(name, sides: Sides, pair: Compared, norm: str, names, seed: int) -> dict:
    """One space of `explain`."""
    found = _cwd(*sides, pair.label, pair.prior, norm)
    largest = np.bincount(pair.label).max()
    first, second, label = _halves(sides[0], pair.label, seed)
    floor = None
    # A class of one image has no halves, and the mean over classes then no meaning.
    if len(np.unique(label)) == len(np.unique(pair.label)):
        floor = _cwd(first, second, label, pair.prior, norm)
    return {
        "space": name,
        "norm": norm,
        "exact": bool(largest <= EXACT_MOST),
        "lower": float(found.mean[0]),
        "cwd": float(found.mean[1]),
        "per_class": _by_name(found, names),
        "floor": None if floor is None else float(floor.mean[1]),
        "floor_per_class": {} if floor is None else _by_name(floor, names),
        "images_per_class": {
            names[k]: int(n) for k, n in enumerate(np.bincount(pair.label)) if n
        },
    }


def _cwd(a: np.ndarray, b: np.ndarray, label, prior, norm: str) -> Conditional:
    """Lower and upper bounds of every class, equal where W1 is exact."""
    return conditional(partial(_bounds, norm=norm), a, b, label, prior)


def _bounds(a: np.ndarray, b: np.ndarray, norm: str) -> tuple[float, float]:
    if len(a) <= EXACT_MOST:
        exact = wasserstein1(a, b, norm)
        return exact, exact
    cost = cost_matrix(a, b, norm)
    # A mean cost of 0 leaves nothing to regularise, yet it must be above 0.
    regulariser = max(REGULARISER_SHARE * cost.mean(), np.finfo(np.float32).tiny)
    found = sinkhorn(cost, regulariser, SINKHORN_STEPS, SINKHORN_TOLERANCE)
    return found.lower, found.upper


def _by_name(found: Conditional, names: tuple[str, ...]) -> dict[str, float]:
    upper = found.per_class[:, 1]
    return {names[k]: float(v) for k, v in enumerate(upper) if not np.isnan(v)}


def _frechet(features: Sides, pair: Compared, seed: int) -> dict:
    first, second, label = _halves(features[0], pair.label, seed)
    floor = frechet_distance(first, second) if len(label) > 1 else None
    return {"frechet": frechet_distance(*features), "floor": floor}


def _network(
    logits_fn: LogitsFn, found: Sides | None, image: Sides, pair: Compared, norm: str
) -> dict:
    """Accuracy and average robustness of one network on both sets."""
    row: dict = {}
    logits = _both(logits_fn, image)
    for i, side in enumerate(("original", "generated")):
        right = logits[i].argmax(axis=1) == pair.label
        row[f"clean_acc_{side}"] = class_mean(right, pair.label, pair.prior)
        if found is not None:
            distance = np.where(right, np.asarray(found[i], np.float64), 0.0)
            row[f"not_found_{side}"] = int(np.isinf(distance).sum())
            distance = borrow_missing(distance, image[i], pair.label, norm)
            rob = average_robustness(distance, pair.label, pair.prior)
            row[f"rob_{side}"] = rob
    return row


def _halves(x: np.ndarray, label: np.ndarray, seed: int):
    """Two random disjoint parts of x [n,...] with equally many rows of every class, and
    their label."""
    parts = [], []
    for k in np.unique(label):
        rows = np.flatnonzero(label == k)
        order = rows[rng.permutation(seed, int(k), len(rows))]
        half = len(rows) // 2
        parts[0].append(order[:half])
        parts[1].append(order[half : 2 * half])
    first, second = (np.concatenate(part) for part in parts)
    return x[first], x[second], label[first]


def _pixels(images: ImageSet, index: np.ndarray) -> np.ndarray:
    return np.asarray(images.take(index).image, np.float32) / 255.0


def _both(function: Callable[[Array], Array], image: Sides) -> Sides:
    first, second = (_apply(function, side) for side in image)
    return first, second


def _apply(function: Callable[[Array], Array], image: np.ndarray) -> np.ndarray:
    """`function` over all images, batch by batch of one shape."""
    if not isinstance(function, Partial):
        function = Partial(function)
    found = []
    for start in range(0, len(image), BATCH):
        rows = np.arange(start, start + BATCH) % len(image)
        found.append(np.asarray(_call(function, image[rows])))
    return np.concatenate(found)[: len(image)]


@jax.jit
def _call(function: Partial, image: Array) -> Array:
    return function(image)


def _check(networks: Mapping, distances: Mapping[str, Sides], count: int) -> None:
    for name, sides in distances.items():
        if name not in networks:
            raise UserError(f"distances of {name!r}, which is not among the networks")
        if any(np.shape(side) != (count,) for side in sides):
            raise UserError(
                f"distances of {name!r} must be {count} numbers a side: attack the "
                "images that proxy.wasserstein.compared names"
            )
