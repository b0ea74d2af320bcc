"""Last-layer gradients of a whole pool at its attacked images."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrobust import features, rng, sharding
from jaxrobust.features import Factors
from jaxrobust.loader import Feed, padded_rows, take_rows, to_unit
from jaxrobust.selection import Frozen
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
        places, _ = padded_rows(index, self.size)
        original = feed.pool.num_original
        found = [self._program(network, *feed(p), p, key, original) for p in places]
        self.compiled = True
        join = lambda *parts: jnp.concatenate(parts)[: len(index)]
        return sharding.gather(jax.tree.map(join, *found), self.setup.mesh)

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
        return factors, features_fn(x_adv)[0]
