"""One pass over a pool: attack every image, score it, leave the scores on the
device."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import rng, sharding
from jaxrobust.loader import Feed, padded_rows
from jaxrobust.scores import Prediction, Score
from jaxrobust.types import Attack, LogitsFn


class ScoringPass:
    """Compiled once: `(logits_fn, index, key) -> {name: f32[N]}` over pool positions.

    The network is frozen (running statistics), attacks are keyed by image, so a score
    does not depend on which images are scored beside it.
    """

    def __init__(
        self, attack: Attack, scores: Mapping[str, Score], batch_size: int, mesh: Mesh
    ):
        self.batch_size = batch_size
        self._pass = jax.jit(partial(_score_chunk, attack, dict(scores), mesh))

    def __call__(
        self, logits_fn: LogitsFn, feed: Feed, index: np.ndarray, key: Array
    ) -> dict[str, Array]:
        """Scores of pool positions `index` int64[N], in their order."""
        places, _ = padded_rows(index, self.batch_size)
        images, labels, rows = feed(places)
        found = self._pass(logits_fn, images, labels, rows, places, key)
        return {name: value.reshape(-1)[: len(index)] for name, value in found.items()}


def _score_chunk(attack, scores, mesh, logits_fn, images, labels, rows, places, key):
    def one_batch(choice):
        row, place = sharding.split_batch(choice, mesh)
        image, label = images[row].astype(jnp.float32) / 255.0, labels[row]
        x_adv = attack(rng.per_example(key, place), logits_fn, image, label)
        seen = Prediction(logits_fn(image), logits_fn(x_adv), label)
        return {name: score(seen) for name, score in scores.items()}

    return jax.lax.map(one_batch, (rows, jnp.asarray(places)))
