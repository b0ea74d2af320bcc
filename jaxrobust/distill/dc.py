"""Data set condensation: images whose gradients match those of real images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from jaxrobust import losses, rng
from jaxrobust.distill.dsa import Augment
from jaxrobust.distill.images import labelled
from jaxrobust.distill.matching import Distance
from jaxrobust.distill.outer import Match, by_class, real_statistics
from jaxrobust.objectives import Objective
from jaxrobust.state import bind
from jaxrobust.types import Attack, Batch, PyTree, TrainState


def gradient_match(
    model: nn.Module,
    objective: Objective,
    attack: Attack,
    distance: Distance,
    augment: Augment,
) -> Match:
    """sum over classes of distance(grad_w CE(synthetic), grad_w objective(real)).

    The real side is a constant and may be any objective: a curvature regulariser
    (GUARD) or, with `attack`, adversarial training enters there and nowhere else.
    `augment` gets the same key for both sides. Both see frozen BatchNorm statistics,
    those of real images of all classes.

    Ref: Zhao et al., arXiv:2006.05929, eq. 8 and algorithm 1; Xue et al. (GUARD),
    arXiv:2403.10045, for the regularised real loss. Deviates: exact statistics, where
    the released code moves running ones a tenth of the way.
    """

    def match(network: TrainState, image: Array, real: Array, key: Array):
        stats = real_statistics(model, network, real)

        def gradient(loss: Callable, *inputs) -> PyTree:
            def mean_loss(params: PyTree) -> Array:
                variables = {"params": params, "batch_stats": stats}
                return jnp.mean(loss(bind(model, variables, "running"), *inputs))

            return jax.grad(mean_loss)(network.params)

        def real_loss(logits_fn, batch: Batch, keys: Array) -> Array:
            x_adv = batch.image
            if objective.inner is not None:
                # The attack moves images only: its network is held fixed.
                fixed = lax.stop_gradient(logits_fn)
                target = objective.target(fixed, batch)
                x_adv = attack(keys, fixed, batch.image, target)
            forward = lambda x, _: (logits_fn(x), stats)
            return objective.outer(forward, batch, x_adv).loss

        def synthetic_loss(logits_fn, batch: Batch) -> Array:
            return losses.cross_entropy(logits_fn(batch.image), batch.label)

        def of_class(row: tuple[Array, Array, Array, Array]):
            label, own, others, class_key = row
            to_augment, to_attack = jax.random.split(class_key)
            seen = labelled(augment(to_augment, others), label)
            keys = rng.per_example(to_attack, seen.index)
            goal = lax.stop_gradient(gradient(real_loss, seen, keys))

            def gap(x: Array) -> Array:
                moved = labelled(augment(to_augment, x), label)
                return distance(gradient(synthetic_loss, moved), goal)

            return jax.value_and_grad(gap)(own)

        return by_class(of_class, image, real, key)

    return match
