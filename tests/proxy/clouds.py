"""Point clouds and linear networks whose distances have closed forms."""

import numpy as np

from jaxrobust.data import ImageSet

DUAL = {"l2": 2, "linf": 1, "l1": np.inf}


def cloud(count, depth=3, seed=0):
    return np.random.default_rng(seed).normal(size=(count, depth))


def linear_distances(x, label, weight):
    """inf {||x' - x|| : argmax x' W != label} for every norm, {norm: f[n]}."""
    rows, logits = np.arange(len(x)), x @ weight
    margin = logits[rows, label][:, None] - logits
    found = {}
    for norm, dual in DUAL.items():
        slope = weight[:, label].T[:, :, None] - weight[None]
        length = np.linalg.norm(slope, ord=dual, axis=1)
        length[rows, label] = np.nan
        found[norm] = np.maximum(np.nanmin(margin / length, axis=1), 0.0)
    return found


def pixels(label, seed=0, bright=0, names=("cat", "dog", "ox")):
    """An `ImageSet` u8[N,8,8,1] of these labels: noise on a row of its class."""
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 60, (len(label), 8, 8, 1))
    image[np.arange(len(label)), label] += 150
    image = np.clip(image + bright, 0, 255).astype(np.uint8)
    return ImageSet(image, np.asarray(label, np.int32), names, "made by tests")
