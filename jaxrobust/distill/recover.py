"""Recover: images that a frozen teacher names as asked, with the statistics inside of
it that real images have.

A chunk of images is optimised together; its result depends on (key, teacher, labels)
alone, so chunks can be made in any order and again.

Ref: Yin et al., SRe2L, arXiv:2306.13092, section 3 (Recover); the statistics term is
that of Yin et al., DeepInversion, arXiv:1912.08795.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array, lax

from jaxrobust import losses, optim
from jaxrobust.distill.crops import MultiCrop
from jaxrobust.distill.images import by_channel
from jaxrobust.errors import UserError
from jaxrobust.types import PyTree

Teacher = Callable[[Array], tuple[Array, Array]]
"""image f32[B,H,W,C] in [0,1] -> (logits f32[B,K], statistics gaps f32[L])."""

ADAM = optax.scale_by_adam(b1=0.5, b2=0.9)


class RecoverState(NamedTuple):
    """`step` i32[] taken, `image` f32[B,H,W,C] in [0,1], the state of Adam."""

    step: Array
    image: Array
    opt_state: PyTree


Advance = Callable[
    [Teacher, RecoverState, Array, Array, int], tuple[RecoverState, dict[str, Array]]
]
"""(teacher, state, key, label i32[B], count) -> (state after `count` more steps,
{"loss", "cross_entropy", "bn_gap"} f32[count])."""


@dataclass(frozen=True)
class _Teacher:
    """As `state._Apply`: equal models give equal, once-compiled programs."""

    model: nn.Module

    def __call__(self, variables: PyTree, image: Array) -> tuple[Array, Array]:
        gaps = []

        def watch(run, args, kwargs, context):
            if isinstance(context.module, nn.BatchNorm):
                gaps.append(_gap(args[0], context.module.variables["batch_stats"]))
            return run(*args, **kwargs)

        with nn.intercept_methods(watch):
            logits = self.model.apply(variables, image, train=False)
        return logits, jnp.stack(gaps)  # type: ignore[return-value]


def bind_teacher(model: nn.Module, variables: PyTree) -> Teacher:
    """The frozen network with running statistics, a tree of arrays like `state.bind`.

    Its gaps are, for each BatchNorm in the order of the calls,
    `||running_var - var||_2 + ||running_mean - mean||_2` over the channels, mean and
    biased variance being those of the layer's input over (B,H,W).

    Raises `UserError` for a network without BatchNorm.
    """
    if not jax.tree.leaves(variables.get("batch_stats", {})):
        raise UserError(
            "recovery matches the statistics of BatchNorm layers and the teacher has "
            "none: choose a teacher with BatchNorm (norm='batch')"
        )
    if getattr(model, "remat", False):
        model = model.clone(remat=False)  # a gap seen in a block cannot leave it then
    return jax.tree_util.Partial(_Teacher(model), variables)


def statistics_gap(gaps: Array, first_weight: float) -> Array:
    """R_BN = first_weight gap_1 + gap_2 + ... + gap_L, f32[]; SRe2L takes 10."""
    return first_weight * gaps[0] + jnp.sum(gaps[1:])


def plan_chunks(
    num_classes: int, ipc: int, images_per_class: int, classes_per_chunk: int
) -> tuple[np.ndarray, ...]:
    """The images int64[B] of each chunk, that is, of each set optimised together.

    Image i is of class `i % num_classes`. A chunk has up to `images_per_class` images
    of up to `classes_per_chunk` classes. Published: 1 and 100; on sets of ten classes
    statistics then come from ten images, so more of a class match better.
    """
    pool = np.arange(ipc * num_classes).reshape(ipc, num_classes)
    return tuple(
        pool[row : row + images_per_class, first : first + classes_per_chunk].ravel()
        for row in range(0, ipc, images_per_class)
        for first in range(0, num_classes, classes_per_chunk)
    )


def start(image: Array) -> RecoverState:
    """Step 0 from image f32[B,H,W,C], such as `noise_images`."""
    return RecoverState(jnp.zeros((), jnp.int32), image, ADAM.init(image))


def make_advance(
    view: MultiCrop,
    *,
    total_steps: int,
    learning_rate: float,
    std: Array,
    r_bn: float,
    first_weight: float,
) -> Advance:
    """Compiled steps of recovery; any cut of `total_steps` into calls gives the same.

    Each step goes down the mean over rows of `CE(teacher(view(x)), y)` plus
    `r_bn * statistics_gap` by Adam (.5, .9), at a rate that falls from `learning_rate`
    to 0 along half a cosine, then clips to [0,1]. The rate is in units of `std` f32[C],
    pixels as the published code normalises them, so its numbers carry over.

    Ref: arXiv:2306.13092, section 3; published (rate, r_bn): CIFAR and ImageNet (.25,
    .01), TinyImageNet (.1, 1). Deviates: the noise at the start is clipped too.
    """
    rate = optim.cosine(learning_rate, jnp.asarray(total_steps, jnp.float32), 0.0, 0.0)

    def loss_fn(image, teacher, key, step, label):
        logits, gaps = teacher(view(key, step, image))
        cross_entropy = jnp.mean(losses.cross_entropy(logits, label))
        gap = statistics_gap(gaps, first_weight)
        loss = cross_entropy + r_bn * gap
        return loss, {"loss": loss, "cross_entropy": cross_entropy, "bn_gap": gap}

    def advance(teacher, state: RecoverState, key, label, count: int):
        def step(state: RecoverState, _):
            draw = jax.random.fold_in(key, state.step)
            descend = jax.grad(loss_fn, has_aux=True)
            grad, facts = descend(state.image, teacher, draw, state.step, label)
            direction: PyTree
            direction, opt_state = ADAM.update(grad, state.opt_state)
            unit = by_channel(std, state.image.shape)
            image = state.image - rate(state.step) * unit * direction
            return RecoverState(state.step + 1, jnp.clip(image, 0, 1), opt_state), facts

        return lax.scan(step, state, None, length=count)

    return jax.jit(advance, static_argnums=4)


def _gap(x: Array, running: PyTree) -> Array:
    x = x.astype(jnp.float32).reshape(-1, x.shape[-1])
    # Safe: where statistics agree, the gradient of a plain norm is NaN.
    return optax.safe_norm(running["var"] - jnp.var(x, axis=0), 0.0) + optax.safe_norm(
        running["mean"] - jnp.mean(x, axis=0), 0.0
    )
