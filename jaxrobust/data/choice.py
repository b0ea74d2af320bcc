"""Which rows of a set are kept: stratified, random, a function of (labels, seed)."""

import numpy as np

from jaxrobust import rng
from jaxrobust.errors import UserError

STREAMS = {"train": 1, "test": 2, "val": 3, "unsplit": 4, "pool": 5}
"""Choices made for different ends never share random numbers."""


def shares(counts: np.ndarray, total: int, tie_break: np.ndarray) -> np.ndarray:
    """How many of `total` each class gives, int64[K]: by largest remainder.

    Proportional to `counts` within one image, and at least one of every class that has
    images when `total` reaches the number of such classes. Equal remainders are served
    in the order `tie_break`.
    """
    counts = np.asarray(counts, np.int64)
    size = int(counts.sum())
    share, remainder = np.divmod(total * counts, size)
    order = np.argsort(-remainder[tie_break], kind="stable")
    share[tie_break[order[: total - int(share.sum())]]] += 1
    if total >= np.count_nonzero(counts):
        for empty in np.flatnonzero((share == 0) & (counts > 0)):
            share[np.argmax(share)] -= 1
            share[empty] = 1
    return share


def stratified(label: np.ndarray, count: int, seed: int, purpose: str) -> np.ndarray:
    """`count` different rows of `label` [N], stratified by class, in random order."""
    stream = STREAMS[purpose] << 32
    counts = np.bincount(label)
    share = shares(counts, count, rng.permutation(seed, stream, len(counts)))
    # Sorting by class once finds the members of all classes in O(N log N).
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(counts)[:-1])
    chosen = [
        rows[rng.host_choice(seed, stream + k, len(rows), int(share[k]))]
        for k, rows in enumerate(members)
    ]
    return np.concatenate(chosen)[rng.permutation(seed, stream + 1, count)]


def complement(size: int, index: np.ndarray) -> np.ndarray:
    """The rows below `size` that are not in `index`, in order."""
    keep = np.ones(size, bool)
    keep[index] = False
    return np.flatnonzero(keep)


def unsplit(label: np.ndarray, split: str) -> np.ndarray:
    """Rows of "train" or "test" for a source that comes without splits.

    One image in five (at least one of every class), stratified and drawn with seed 0,
    is the test split. It depends on the number of images of each class alone, so every
    run has the same one. Raises `UserError` where a class has a single image.
    """
    counts = np.bincount(label)
    if (counts == 1).any():
        raise UserError(
            f"class number {int(np.argmax(counts == 1))} has one image, too few for a "
            "train and a test split: add images, or make train and test yourself"
        )
    count = max(np.count_nonzero(counts), round(len(label) / 5))
    test = np.sort(stratified(label, int(count), 0, "unsplit"))
    return test if split == "test" else complement(len(label), test)
