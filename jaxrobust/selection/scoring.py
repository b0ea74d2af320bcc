"""One pass over a pool: attack every image, score it, leave the scores on the
device."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import rng, sharding
from jaxrobust.loader import Feed, padded_rows, take_rows, to_unit
from jaxrobust.scores import (
    AnyScore,
    Attacked,
    FeatureScore,
    NetworkScore,
    Prediction,
)
from jaxrobust.selection.topk import padded_size
from jaxrobust.types import Attack, FeaturesFn, LogitsFn


class Frozen(NamedTuple):
    """A network with frozen weights, seen as far as its logits, and one layer deeper
    where a score asks for that."""

    logits_fn: LogitsFn
    features_fn: FeaturesFn | None = None


class ScoringPass:
    """Compiled once: `(network, feed, index, key) -> {name: f32[N]}`, batch by batch.

    The network is frozen (running statistics), attacks are keyed by image, so a score
    does not depend on which images are scored beside it.
    """

    def __init__(
        self,
        attack: Attack,
        scores: Mapping[str, AnyScore],
        batch_size: int,
        mesh: Mesh,
    ):
        self.batch_size = batch_size
        self.compiled = False
        """Whether it has run: a clock had better start after that."""
        self._mesh = mesh
        self._batch = jax.jit(partial(_score_batch, attack, dict(scores), mesh))

    def __call__(
        self, network: Frozen, feed: Feed, index: np.ndarray, key: Array
    ) -> dict[str, Array]:
        """Scores of pool positions `index` int64[N], in their order, on the device."""
        found = self._batches(network, feed, index, key)
        return {
            name: jnp.concatenate([batch[name] for batch in found])[: len(index)]
            for name in found[0]
        }

    def spread(
        self, network: Frozen, feed: Feed, index: np.ndarray, key: Array
    ) -> dict[str, Array]:
        """The same [S,B] and left where they were made: of each of the S batches every
        device holds its own part. The last batch is filled up with other scores, and
        batches of zeros make S one of a few numbers (`padded_size`)."""
        found = self._batches(network, feed, index, key)
        return {
            name: stack_batches([batch[name] for batch in found], self._mesh)
            for name in found[0]
        }

    def _batches(self, network, feed, index, key) -> list[dict[str, Array]]:
        places, _ = padded_rows(index, self.batch_size)
        found = [self._batch(network, *feed(place), place, key) for place in places]
        self.compiled = True
        return found


def _score_batch(attack, scores, mesh, network, images, labels, rows, place, key):
    rows, place = sharding.split_batch((rows, place), mesh)
    image, label = take_rows(images, labels, rows, mesh)
    image = to_unit(image)
    logits_fn, features_fn = network
    x_adv = attack(rng.per_example(key, place), logits_fn, image, label)
    seen = Prediction(logits_fn(image), logits_fn(x_adv), label)
    attacked = Attacked(image, x_adv, label)

    def value(score: AnyScore) -> Array:
        if isinstance(score, NetworkScore):
            return score.of(logits_fn, attacked)
        if isinstance(score, FeatureScore):
            return score.of(features_fn, attacked)
        return score(seen)

    found = {name: value(score) for name, score in scores.items()}
    return sharding.split_batch(found, mesh)


@partial(jax.jit, static_argnums=1)
def stack_batches(parts: list[Any], mesh: Mesh) -> Any:
    """Trees of [B,...], split over the devices, as one of [S,B,...] that lies as they
    do; zeros at the end make S one of a few numbers (`padded_size`)."""
    layout = sharding.columns(mesh)
    missing = padded_size(len(parts)) - len(parts)

    def join(*xs: Array) -> Array:
        filled = jnp.stack([*xs, *[jnp.zeros_like(xs[0])] * missing])
        return jax.lax.with_sharding_constraint(filled, layout)

    return jax.tree.map(join, *parts)
