"""Trajectory matching: images that take a network along a piece of an expert's way.

A student starts where the expert was after some epoch, takes a few SGD steps on the
synthetic images at a step size that is learnt with them, and should end where the
expert was some epochs later. `mtt` and `tesla` differ in how the images' gradient is
computed. Parameters are one flat vector f32[P], as `experts` keeps them.

Ref: Cazenavette et al., Dataset Distillation by Matching Training Trajectories,
arXiv:2203.11932, algorithm 1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jaxrobust import losses, rng, tree
from jaxrobust.distill.dsa import Augment
from jaxrobust.distill.images import as_batch, epoch_rows
from jaxrobust.errors import UserError
from jaxrobust.state import bind, init_variables
from jaxrobust.types import PyTree

Network = Callable[[Array, Array], Array]
"""(parameters f32[P], image f32[B,H,W,C]) -> logits f32[B,K]."""


class Segment(NamedTuple):
    """An expert's parameters f32[P] after some epoch, and those some epochs later."""

    start: Array
    goal: Array


class Grads(NamedTuple):
    """Of the matching loss: by the images [N,H,W,C] and by the step size []."""

    image: Array
    rate: Array


SegmentMatch = Callable[[Segment, Array, Array, Array, Array], tuple[Array, Grads]]
"""(segment, synthetic f32[N,H,W,C], target i32[N] or f32[N,K], step size f32[], key) ->
(matching loss f32[], its gradients)."""

Labels = Callable[[Segment, Array, Array], Array]
"""(segment, synthetic f32[N,H,W,C], label i32[N]) -> target i32[N] or f32[N,K]."""

TrajectoryStep = Callable[
    ["TrajectoryState", Segment, Array], tuple["TrajectoryState", dict[str, Array]]
]
"""(state, segment, key of the run) -> (state, numbers f32[])."""


@struct.dataclass
class TrajectoryState:
    """Arrays only: `image` f32[K,ipc,H,W,C] in [0,1] and the student's step size `rate`
    f32[] are what is being learnt."""

    step: Array
    image: Array
    rate: Array
    image_opt: PyTree
    rate_opt: PyTree


class Batches(NamedTuple):
    """What each of N steps sees: rows i32[N,B] of the synthetic images, keys[N]."""

    rows: Array
    keys: Array


def flat_network(model: nn.Module, image_shape: tuple[int, ...]) -> Network:
    """The model as a function of one vector of parameters, ordered as `ravel_pytree`
    orders its "params".

    Raises `UserError` for a network with BatchNorm.
    """
    init = lambda: init_variables(model, image_shape, jax.random.key(0))
    shapes: PyTree = jax.eval_shape(init)
    check_no_statistics(shapes.get("batch_stats", {}))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["params"])
    unravel = ravel_pytree(zeros)[1]

    def network(params: Array, image: Array) -> Array:
        variables: PyTree = {"params": unravel(params)}
        return bind(model, variables, "running")(image)

    return network


def check_no_statistics(batch_stats: PyTree) -> None:
    """Raises `UserError` for BatchNorm: its running statistics are no parameters, so no
    vector of these says what the network does."""
    if jax.tree.leaves(batch_stats):
        raise UserError(
            "trajectories are matched in parameters alone and this network has "
            "BatchNorm statistics besides: use norm='instance' or 'group'"
        )


def hard_labels(segment: Segment, image: Array, label: Array) -> Array:
    """The labels as they are."""
    return label


def expert_labels(network: Network) -> Labels:
    """softmax of the expert at the goal, on the images as they are now; a constant.

    Ref: Cui et al. (TESLA), arXiv:2211.10586, section 3.3 (soft label assignment).
    """

    def labels(segment: Segment, image: Array, label: Array) -> Array:
        return lax.stop_gradient(jax.nn.softmax(network(segment.goal, image)))

    return labels


def draw_batches(key: Array, size: int, batch_size: int, steps: int) -> Batches:
    """Batches of `steps` steps out of `size` images, epoch after epoch as `epoch_rows`
    cuts them.

    Deviates: images that are left over wait for the next epoch, where the released code
    has a smaller last batch.
    """
    to_order, to_augment = jax.random.split(key)
    epochs = -(-steps // -(-size // batch_size))
    draw = lambda epoch_key: epoch_rows(epoch_key, size, batch_size)
    rows = jax.vmap(draw)(jax.random.split(to_order, epochs))
    rows = rows.reshape(-1, rows.shape[-1])[:steps]
    return Batches(rows, jax.random.split(to_augment, steps))


def student_slope(
    network: Network,
    augment: Augment,
    params: Array,
    image: Array,
    target: Array,
    key: Array,
) -> Array:
    """f32[P], the gradient by `params` of the mean cross-entropy of one batch."""

    def loss(params: Array) -> Array:
        logits = network(params, augment(key, image))
        return jnp.mean(losses.cross_entropy(logits, target))

    return jax.grad(loss)(params)


def matching_loss(end: Array, segment: Segment) -> Array:
    """||end - goal||^2 / ||start - goal||^2, f32[]; 1 is a student that stood still."""
    way = jnp.sum(jnp.square(segment.start - segment.goal))
    return jnp.sum(jnp.square(end - segment.goal)) / way


def checkpointed_scan(body: Callable, carry: PyTree, xs: PyTree) -> PyTree:
    """The last carry of `lax.scan(body, carry, xs)`, whose gradient takes the memory of
    about 2 sqrt(N) carries and one step, and three forward passes in place of one.

    N steps are cut into blocks of ceil(sqrt(N)): the carries before each block are
    kept, and those inside of one block while its gradient is computed. Ref: Chen et
    al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
    """
    length = len(jax.tree.leaves(xs)[0])
    side = math.isqrt(max(length - 1, 0)) + 1
    even = length // side * side

    @jax.checkpoint
    def block(carry: PyTree, part: PyTree):
        return lax.scan(jax.checkpoint(body), carry, part)[0], None

    folded = lambda x: x[:even].reshape(-1, side, *x.shape[1:])
    carry, _ = lax.scan(block, carry, jax.tree.map(folded, xs))
    if even < length:
        carry, _ = block(carry, jax.tree.map(lambda x: x[even:], xs))
    return carry


def make_trajectory_step(
    match: SegmentMatch,
    labels: Labels,
    image_tx: optax.GradientTransformation,
    rate_tx: optax.GradientTransformation,
    least_rate: float,
    clip: bool,
) -> TrajectoryStep:
    """Match one segment, move the images and the step size.

    `rate_tx` moves the step size, which stays at or above `least_rate`; `clip` keeps
    the pixels in [0,1]. Published (`image_sgd`, in normalised pixels): rate 1000 and
    momentum 0.5 for images, `optax.sgd(1e-5, 0.5)` for a step size from 0.01.

    Deviates: published images are not clipped, and published step sizes may turn
    negative, as their users report.
    """

    def step(state: TrajectoryState, segment: Segment, base_key: Array):
        keys = rng.step_keys(base_key, state.step)
        batch = as_batch(state.image)
        target = labels(segment, batch.image, batch.label)
        value, grads = match(segment, batch.image, target, state.rate, keys.augment)
        by_image = grads.image.reshape(state.image.shape)
        updates, image_opt = image_tx.update(by_image, state.image_opt, state.image)
        image = jnp.asarray(optax.apply_updates(state.image, updates))
        change, rate_opt = rate_tx.update(grads.rate, state.rate_opt, state.rate)
        rate = jnp.asarray(optax.apply_updates(state.rate, change))
        state = TrajectoryState(
            state.step + 1,
            jnp.clip(image, 0.0, 1.0) if clip else image,
            jnp.maximum(rate, least_rate),
            image_opt,
            rate_opt,
        )
        facts = {"distance": value, "grad_norm": tree.norm(by_image)}
        return state, facts | {"rate": state.rate}

    return step


def init_state(
    image: Array,
    rate: float,
    image_tx: optax.GradientTransformation,
    rate_tx: optax.GradientTransformation,
) -> TrajectoryState:
    """The state at step 0 from images f32[K,ipc,H,W,C], real ones or `noise_images`,
    and a first step size."""
    first = jnp.asarray(rate, jnp.float32)
    return TrajectoryState(
        jnp.zeros((), jnp.int32),
        image,
        first,
        image_tx.init(image),
        rate_tx.init(first),
    )
