"""Accuracy on a whole set, clean and under attack."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import metrics, rng, sharding
from jaxrobust.loader import Feed, padded_rows, to_unit
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn


class Accuracy(NamedTuple):
    """`value` in [0,1]; `flags` bool[N], right on each image; and the proof of the
    attack: the largest `distance` it went, in the threat's norm and unit."""

    value: float
    flags: np.ndarray
    distance: float


class AccuracyPass:
    """Compiled once for an attack: `(logits_fn, feed, index, key) -> Accuracy`.

    The last batch is padded and the padding left out of the count. Attacks are keyed by
    image index: flags do not change with batch size, order or neighbours.
    """

    def __init__(
        self, attack: Attack, threat: ThreatModel, batch_size: int, mesh: Mesh
    ):
        self.batch_size = batch_size
        self._batch = jax.jit(partial(_attack_batch, attack, threat, mesh))

    def __call__(
        self, logits_fn: LogitsFn, feed: Feed, index: np.ndarray, key: Array
    ) -> Accuracy:
        """Attack every image of `feed` at positions `index` and count."""
        if not isinstance(logits_fn, jax.tree_util.Partial):
            logits_fn = jax.tree_util.Partial(logits_fn)
        places, real = padded_rows(index, self.batch_size)
        found = [self._batch(logits_fn, *feed(place), place, key) for place in places]
        right = np.concatenate([np.asarray(batch[0]) for batch in found])
        # Not Python's max: that loses a NaN.
        distance = float(np.max([batch[1] for batch in found]))
        flags = right[real.reshape(-1)] > 0
        return Accuracy(float(np.mean(flags)), flags, distance)


def _attack_batch(attack, threat, mesh, logits_fn, images, labels, rows, place, key):
    rows, place = sharding.split_batch((rows, place), mesh)
    image, label = to_unit(images[rows]), labels[rows]
    x_adv = attack(rng.per_example(key, place), logits_fn, image, label)
    right = metrics.correct(logits_fn(x_adv), label)
    farthest = jnp.max(threat.distance(x_adv, image))
    return sharding.constrain_replicated((right, farthest), mesh)
