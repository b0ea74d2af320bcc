"""The outer loop of matching methods: a fresh network, a match, a move of the images.

An outer step is a pure function of (state, real images, key), so a host loop needs
nothing but a counter: the step draws a new network where the life of one ends, matches
class by class, moves the images, and trains the network a little on them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import Array, lax

from jaxrobust import rng, tree
from jaxrobust.distill.images import as_batch, epoch_rows
from jaxrobust.errors import UserError
from jaxrobust.types import Batch, PyTree, TrainState

BN_IMAGES = 16
"""Real images of each class that BatchNorm's statistics are taken from."""

Match = Callable[[TrainState, Array, Array, Array], tuple[Array, Array]]
"""(network, synthetic f32[K,ipc,H,W,C], real f32[K,B,H,W,C], key) -> (distance f32[],
its gradient by the synthetic images). Row k holds images of class k."""

NetworkStep = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]
"""One step of training as `train_step.make_train_step` makes it."""

OuterStep = Callable[
    ["DistillState", Array, Array], tuple["DistillState", dict[str, Array]]
]
"""(state, real f32[K,B,H,W,C], key of the run) -> (state, numbers f32[])."""


@struct.dataclass
class DistillState:
    """Arrays only: `image` f32[K,ipc,H,W,C] in [0,1] is what is being distilled."""

    step: Array
    image: Array
    image_opt: PyTree
    network: TrainState


class Loops(NamedTuple):
    """`outer_steps` in the life of a network, `inner_epochs` on the synthetic images
    between two of them."""

    outer_steps: int
    inner_epochs: int


LOOPS = {
    1: Loops(1, 1),
    10: Loops(10, 50),
    20: Loops(20, 25),
    30: Loops(30, 20),
    40: Loops(40, 15),
    50: Loops(50, 10),
}
"""The published loops by images per class."""


def loops(ipc: int) -> Loops:
    """`LOOPS[ipc]`; else `ipc` outer steps, at most 50, and 500 / outer steps epochs
    between 10 and 50, which is what the table is close to.

    Raises `UserError` below 1. Deviates: the released code refuses what is not in its
    table.
    """
    if ipc < 1:
        raise UserError(f"ipc is {ipc}: give at least one image per class")
    outer = min(ipc, 50)
    return LOOPS.get(ipc, Loops(outer, min(max(round(500 / outer), 10), 50)))


def make_outer_step(
    match: Match,
    fresh: Callable[[Array], TrainState],
    train: NetworkStep,
    image_tx: optax.GradientTransformation,
    loops: Loops,
    batch_size: int,
    clip: bool,
) -> OuterStep:
    """Match, move the images, train the network on them; every `outer_steps` steps the
    network is `fresh(key)`, and the training that it would not live to use is left out.

    `clip` keeps the pixels in [0,1]. Deviates: published images are not clipped.
    """

    def step(state: DistillState, real: Array, base_key: Array):
        age = state.step % loops.outer_steps
        keys = rng.step_keys(base_key, state.step)
        network = _if(age == 0, lambda _: fresh(keys.select), state.network)
        value, grads = match(network, state.image, real, keys.augment)
        updates, image_opt = image_tx.update(grads, state.image_opt, state.image)
        image = jnp.asarray(optax.apply_updates(state.image, updates))
        image = jnp.clip(image, 0.0, 1.0) if clip else image
        if loops.outer_steps > 1:
            learn = lambda old: inner_loop(
                train, old, image, keys.model, loops.inner_epochs, batch_size
            )
            network = _if(age < loops.outer_steps - 1, learn, network)
        state = DistillState(state.step + 1, image, image_opt, network)
        return state, {"distance": value, "grad_norm": tree.norm(grads)}

    return step


def inner_loop(
    train: NetworkStep,
    network: TrainState,
    image: Array,
    key: Array,
    epochs: int,
    batch_size: int,
) -> TrainState:
    """`epochs` of training on the synthetic images [K,ipc,H,W,C], in a new order each.

    Batches as `epoch_rows` cuts them. Deviates: images that are left over wait for the
    next epoch, where the released code has a smaller last batch.
    """
    images = lax.stop_gradient(as_batch(image))
    size = len(images.label)
    to_order, to_train = jax.random.split(key)

    def epoch(network: TrainState, epoch_key: Array):
        def one(network: TrainState, row: Array):
            batch = jax.tree.map(lambda x: x[row], images)
            return train(network, batch, to_train)[0], None

        return lax.scan(one, network, epoch_rows(epoch_key, size, batch_size))

    return lax.scan(epoch, network, jax.random.split(to_order, epochs))[0]


def init_state(
    image: Array,
    image_tx: optax.GradientTransformation,
    fresh: Callable[[Array], TrainState],
) -> DistillState:
    """The state at step 0 from images f32[K,ipc,H,W,C], real ones or `noise_images`."""
    # A first step draws its own network; this one gives the shapes only.
    shapes = jax.eval_shape(fresh, jax.random.key(0))
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return DistillState(jnp.zeros((), jnp.int32), image, image_tx.init(image), empty)


def by_class(of_class: Callable, image: Array, real: Array, key: Array):
    """(sum of the classes' values, their gradients stacked): one class after another,
    so that memory holds the second-order graph of one."""
    labels = jnp.arange(len(image), dtype=jnp.int32)
    keys = rng.per_example(key, labels)
    values, grads = lax.map(of_class, (labels, image, real, keys))
    return jnp.sum(values), grads


def real_statistics(model: nn.Module, network: TrainState, real: Array) -> PyTree:
    """BatchNorm statistics of up to `BN_IMAGES` real images of each class, exactly.

    A pass in training mode moves running statistics s to m s + (1 - m) b. From s = 0
    and s = 1 that gives both m and b, whatever the model's momentum is.
    """
    if not network.batch_stats:
        return network.batch_stats
    image = real[:, :BN_IMAGES].reshape(-1, *real.shape[2:])

    def moved(start: float) -> PyTree:
        stats = jax.tree.map(lambda s: jnp.full_like(s, start), network.batch_stats)
        variables: PyTree = {"params": network.params, "batch_stats": stats}
        _, updated = model.apply(variables, image, train=True, mutable=["batch_stats"])
        return updated["batch_stats"]

    return jax.tree.map(lambda a, b: a / (1 - (b - a)), moved(0.0), moved(1.0))


def _if(condition: Array, change: Callable, value: PyTree) -> PyTree:
    return lax.cond(condition, change, lambda same: same, value)
