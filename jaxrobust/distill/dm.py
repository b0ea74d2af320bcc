"""Distribution matching: class means of the embeddings of random networks."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from jaxrobust.distill.dsa import Augment
from jaxrobust.distill.outer import Match, by_class, real_statistics
from jaxrobust.state import bind_features
from jaxrobust.types import TrainState


def feature_match(model: nn.Module, augment: Augment) -> Match:
    """sum over classes of ||mean embedding(synthetic) - mean embedding(real)||^2.

    The embedding is the input of the last layer. No loss is involved, hence no place
    for an objective; with `Loops(1, 1)` in `make_outer_step` each step has a random
    network of its own, as published.

    Ref: Zhao and Bilen, Dataset Condensation with Distribution Matching,
    arXiv:2110.04181, eq. 6. Deviates: BatchNorm statistics are those of real images for
    both sides; in the released code each side uses its own.
    """

    def match(network: TrainState, image: Array, real: Array, key: Array):
        stats = real_statistics(model, network, real)
        variables = {"params": network.params, "batch_stats": stats}
        features_fn = bind_features(model, variables)

        def mean_embedding(class_key: Array, x: Array) -> Array:
            return jnp.mean(features_fn(augment(class_key, x))[1], axis=0)

        def of_class(row: tuple[Array, Array, Array, Array]):
            _, own, others, class_key = row
            goal = lax.stop_gradient(mean_embedding(class_key, others))

            def gap(x: Array) -> Array:
                return jnp.sum(jnp.square(mean_embedding(class_key, x) - goal))

            return jax.value_and_grad(gap)(own)

        return by_class(of_class, image, real, key)

    return match
