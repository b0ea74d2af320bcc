"""Last-layer gradients of a whole pool at its attacked images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import features, rng, sharding
from jaxrobust.features import Factors
from jaxrobust.loader import Feed, padded_rows, take_rows, to_unit
from jaxrobust.selection import Frozen
from jaxrobust.selection.scoring import stack_batches
from jaxrobust.selection.spread_factors import SpreadFactors
from jaxrobust.tasks.setup import Setup, build_augment
from jaxrobust.types import Batch


class GradientPass:
    """Gradients as the training step would see them: images are augmented, then
    attacked, then looked at, the same views throughout; with running statistics.

    Compiled once: `(network, feed, index, key) -> (factors, logits f32[N,K])`.
    """

    def __init__(self, setup: Setup, method: str):
        self.setup, self.method = setup, setup.methods[method]
        self.size = setup.config["score"]["batch_size"]
        sharding.check_batch_size(self.size, setup.mesh)
        spec = setup.config["methods"][method]["objective"]
        self._beta = spec["beta"] if spec["name"] == "trades" else 0.0
        self.compiled = False
        """Whether it has run: a clock had better start after that."""
        self._program = jax.jit(self._batch)

    def __call__(
        self, network: Frozen, feed: Feed, index: np.ndarray, key: Array
    ) -> tuple[Factors, Array]:
        """Of the images at positions `index`, on every device."""
        found = self._batches(network, feed, index, key)
        join = lambda *parts: jnp.concatenate(parts)[: len(index)]
        return sharding.gather(jax.tree.map(join, *found), self.setup.mesh)

    def spread(
        self, network: Frozen, feed: Feed, index: np.ndarray, key: Array
    ) -> SpreadFactors:
        """The same gradients, left on the devices that made them."""
        found = self._batches(network, feed, index, key)
        factors = [batch[0] for batch in found]
        return _spread(factors, len(index), self.setup.mesh)

    def _batches(self, network, feed, index, key) -> list[tuple[Factors, Array]]:
        places, _ = padded_rows(index, self.size)
        original = feed.pool.num_original
        found = [self._program(network, *feed(p), p, key, original) for p in places]
        self.compiled = True
        return found

    @property
    def passes(self) -> float:
        """Forward passes of an image."""
        return 2 * self.method.attack_steps + (2 if self._beta else 1)

    def _batch(self, network, images, labels, rows, place, key, original):
        rows, place = sharding.split_batch((rows, place), self.setup.mesh)
        keys = rng.step_keys(key, 0)
        augment = build_augment(
            self.setup.config["augment"], self.setup.splits.num_classes, original
        )
        weight = jnp.ones(len(rows))
        image, label = take_rows(images, labels, rows, self.setup.mesh)
        plain = Batch(to_unit(image), label, weight, place)
        batch = augment(keys.augment, plain)
        x_adv = self.method.craft(keys, network.logits_fn, batch)
        features_fn = network.features_fn
        assert features_fn is not None
        if self._beta:
            factors = features.trades_factors(
                features_fn, batch.image, x_adv, batch.target, self._beta
            )
        else:
            factors = features.cross_entropy_factors(features_fn, x_adv, batch.target)
        return sharding.split_batch((factors, features_fn(x_adv)[0]), self.setup.mesh)


@partial(jax.jit, static_argnums=2)
def _spread(parts: list[Factors], count: int, mesh: Mesh) -> SpreadFactors:
    delta, embedding = stack_batches(parts, mesh)
    batches, width = delta.shape[:2]
    place = width * jnp.arange(batches)[:, None] + jnp.arange(width)[None]
    return SpreadFactors(delta * (place < count)[..., None, None], embedding)
