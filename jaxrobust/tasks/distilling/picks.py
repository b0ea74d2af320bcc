"""Real images as controls: as many as were distilled, at random or by herding."""

import numpy as np

from jaxrobust import rng

PICKED = 7 << 32
"""The random stream of the images that stand for chance."""


def random_rows(label: np.ndarray, classes: int, ipc: int, seed: int) -> np.ndarray:
    """int64[classes * ipc]: `ipc` different images of every class, class by class."""
    found = []
    for k in range(classes):
        rows = np.flatnonzero(label == k)
        found.append(rows[rng.host_choice(seed, PICKED + k, len(rows), ipc)])
    return np.concatenate(found)


def herding_rows(
    feature: np.ndarray, label: np.ndarray, classes: int, ipc: int
) -> np.ndarray:
    """The same, in an order in which the mean of the picks is nearest to the mean of
    the class after every pick; `feature` f32[N,D] is brought to length 1.

    Ref: Welling, Herding dynamical weights to learn (2009); as Rebuffi et al., iCaRL,
    arXiv:1611.07725, algorithm 4.
    """
    length = np.linalg.norm(feature, axis=1, keepdims=True)
    feature = feature / np.maximum(length, 1e-12)
    found = []
    for k in range(classes):
        rows = np.flatnonzero(label == k)
        own, total = feature[rows], np.zeros(feature.shape[1])
        goal, left = own.mean(0), np.ones(len(rows), bool)
        for count in range(1, ipc + 1):
            gap = np.linalg.norm(goal - (total + own) / count, axis=1)
            pick = int(np.argmin(np.where(left, gap, np.inf)))
            left[pick] = False
            total += own[pick]
            found.append(rows[pick])
    return np.array(found)
