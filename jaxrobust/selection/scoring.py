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
from jaxrobust.loader import Feed, padded_rows, to_unit
from jaxrobust.scores import Attacked, NetworkScore, Prediction, Score
from jaxrobust.types import Attack, LogitsFn


class ScoringPass:
    """Compiled once: `(logits_fn, feed, index, key) -> {name: f32[N]}`, batch by batch.

    The network is frozen (running statistics), attacks are keyed by image, so a score
    does not depend on which images are scored beside it.
    """

    def __init__(
        self,
        attack: Attack,
        scores: Mapping[str, Score | NetworkScore],
        batch_size: int,
        mesh: Mesh,
    ):
        self.batch_size = batch_size
        self._batch = jax.jit(partial(_score_batch, attack, dict(scores), mesh))

    def __call__(
        self, logits_fn: LogitsFn, feed: Feed, index: np.ndarray, key: Array
    ) -> dict[str, Array]:
        """Scores of pool positions `index` int64[N], in their order, on the device."""
        places, _ = padded_rows(index, self.batch_size)
        found = [self._batch(logits_fn, *feed(place), place, key) for place in places]
        return {
            name: jnp.concatenate([batch[name] for batch in found])[: len(index)]
            for name in found[0]
        }


def _score_batch(attack, scores, mesh, logits_fn, images, labels, rows, place, key):
    rows, place = sharding.split_batch((rows, place), mesh)
    image, label = to_unit(images[rows]), labels[rows]
    x_adv = attack(rng.per_example(key, place), logits_fn, image, label)
    seen = Prediction(logits_fn(image), logits_fn(x_adv), label)
    attacked = Attacked(image, x_adv, label)
    return {
        name: score.of(logits_fn, attacked)
        if isinstance(score, NetworkScore)
        else score(seen)
        for name, score in scores.items()
    }
