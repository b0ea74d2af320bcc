"""Real images of every class: at random, or by herding."""

import numpy as np

from jaxrobust import rng

# Random streams, one for each class from here on: of the images that matching begins
# with, of the batches that it sees, of the controls.
FIRST, BATCHES, PICKED = 0, 1 << 20, 7 << 32


def class_rows(label: np.ndarray, classes: int) -> list[np.ndarray]:
    """The positions of the images of every class, ascending; `label` i32[N]."""
    return [np.flatnonzero(label == k) for k in range(classes)]


def random_rows(
    members: list[np.ndarray], count: int, seed: int, stream: int
) -> np.ndarray:
    """int64[K,count]: `count` different images of every class, row k of class k and
    drawn from the stream `stream + k` of the seed."""
    return np.stack(
        [
            rows[rng.host_choice(seed, stream + k, len(rows), count)]
            for k, rows in enumerate(members)
        ]
    )


def herding_rows(
    feature: np.ndarray, members: list[np.ndarray], count: int
) -> np.ndarray:
    """The same, in an order in which the mean of the picks is nearest to the mean of
    the class after every pick, so that fewer are the first of more; `feature` f32[N,D]
    is brought to length 1.

    Ref: Welling, Herding dynamical weights to learn (2009); as Rebuffi et al., iCaRL,
    arXiv:1611.07725, algorithm 4.
    """
    length = np.linalg.norm(feature, axis=1, keepdims=True)
    feature = feature / np.maximum(length, 1e-12)
    return np.stack([rows[_herd(feature[rows], count)] for rows in members])


def _herd(feature: np.ndarray, count: int) -> list[int]:
    total, picks = np.zeros(feature.shape[1]), []
    goal, left = feature.mean(0), np.ones(len(feature), bool)
    for size in range(1, count + 1):
        gap = np.linalg.norm(goal - (total + feature) / size, axis=1)
        pick = int(np.argmin(np.where(left, gap, np.inf)))
        left[pick] = False
        total += feature[pick]
        picks.append(pick)
    return picks
