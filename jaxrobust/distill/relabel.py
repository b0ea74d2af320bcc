"""Relabel: soft labels out of keys, and the loss of the student that learns from them.

A view of an image is a function of (key of the epoch, image index) and of the distilled
set, whatever batch asks for it. So nothing needs storing: the teacher is asked again
when the student trains; or its logits are kept as float16 and the views are drawn
again. The published files hold crops, boxes, partners and logits of every batch: 30 GB
for ImageNet-1K at 50 images per class.

Ref: Yin et al., SRe2L, arXiv:2306.13092, section 3 (Relabel); Shen and Xing, FKD,
arXiv:2112.01528.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust import losses, rng
from jaxrobust.augment import Augment, cut_box, random_crop, random_flip
from jaxrobust.distill.crops import row_crops
from jaxrobust.errors import unknown_name
from jaxrobust.objectives.base import Objective, Outcome, batch_target
from jaxrobust.state import Forward
from jaxrobust.types import Batch, LogitsFn

Views = Callable[[Array, Array, Array], Array]
"""(epoch's key, images f32[N,H,W,C], index i32[B] into them) -> f32[B,H,W,C]."""

Geometry = Callable[[Array, Array], Array]
"""(keys[B], image f32[B,H,W,C]) -> the same shape."""


def make_geometry(
    least_scale: float, ratio: tuple[float, float], crop_pad: int, flip: bool
) -> Geometry:
    """Random resized crop (`least_scale` 1: none), pad-and-crop (0: none), flip, each
    row from its own key."""

    def move(keys: Array, image: Array) -> Array:
        to_resize, to_crop, to_flip = rng.split_rows(keys, 3)
        if least_scale < 1:
            image = row_crops(to_resize, image, (least_scale, 1.0), ratio)
        if crop_pad:
            image = random_crop(to_crop, image, crop_pad)
        return random_flip(to_flip, image) if flip else image

    return move


def make_views(geometry: Geometry, mix: str, alpha: float) -> Views:
    """Moved images, each mixed with another by `mix` "none" | "cutmix" | "mixup".

    The share kept is lambda ~ Beta(alpha, alpha); the partner, any image of the set,
    is moved as it is in its own row. Published: ImageNet cutmix 1, CIFAR mixup .8,
    TinyImageNet none.

    Raises `UserError` for another `mix`. Deviates: partner, lambda and box are drawn
    for each row, where the released code draws one lambda and box for a batch and
    partners inside of it.
    """
    if mix not in MIXES:
        raise unknown_name("mix", mix, MIXES)
    blend = MIXES[mix]

    def moved(key: Array, images: Array, index: Array) -> tuple[Array, Array]:
        to_move, to_mix = rng.split_rows(rng.per_example(key, index))
        return geometry(to_move, images[index]), to_mix

    def views(key: Array, images: Array, index: Array) -> Array:
        image, to_mix = moved(key, images, index)
        if blend is None:
            return image
        to_partner, to_blend = rng.split_rows(to_mix)
        draw = lambda k: jax.random.randint(k, (), 0, len(images))
        other, _ = moved(key, images, jax.vmap(draw)(to_partner))
        return jax.vmap(blend, in_axes=(0, 0, 0, None))(to_blend, image, other, alpha)

    return views


def _mixup(key: Array, image: Array, other: Array, alpha: float) -> Array:
    kept = jax.random.beta(key, alpha, alpha)
    return kept * image + (1 - kept) * other


def _cutmix(key: Array, image: Array, other: Array, alpha: float) -> Array:
    to_lambda, to_center = jax.random.split(key)
    kept = jax.random.beta(to_lambda, alpha, alpha)
    box = cut_box(kept, jax.random.uniform(to_center, (2,)), image.shape[:2])
    return jnp.where(box[..., None], other, image)


MIXES = {"none": None, "mixup": _mixup, "cutmix": _cutmix}


def soften(logits: Array, temperature: float) -> Array:
    """softmax(z / T), f32[B,K], of logits as they are or as stored in float16."""
    return jax.nn.softmax(logits.astype(jnp.float32) / temperature)


def student_loss(
    logits: Array, soft: Array, temperature: float, t_squared: bool
) -> Array:
    """KL(p || softmax(z / T)), times T^2 if `t_squared`, f32[B]; p from `soften`.

    T^2 keeps the length of the gradient where T grows. Published: ImageNet T = 20 and
    CIFAR T = 30 without, TinyImageNet T = 20 with.

    Ref: Hinton et al., arXiv:1503.02531, section 2.
    """
    factor = temperature**2 if t_squared else 1.0
    return factor * losses.kl_divergence(logits / temperature, soft)


def student(temperature: float, t_squared: bool) -> Objective:
    """Training on soft labels softened by the same `temperature`, with no adversary."""

    def outer(forward: Forward, batch: Batch, x_adv: Array) -> Outcome:
        logits, stats = forward(batch.image, None)
        loss = student_loss(logits, batch.target, temperature, t_squared)
        return Outcome(loss, logits, stats)

    return Objective(None, outer, batch_target, passes=3.0)


def relabelled(batch: Batch, view: Array, logits: Array, temperature: float) -> Batch:
    """The batch with its view and the teacher's word on it, recomputed or stored."""
    soft = jax.lax.stop_gradient(soften(logits, temperature))
    return batch._replace(image=view, soft_label=soft)


def make_relabel(
    teacher: LogitsFn, views: Views, images: Array, temperature: float
) -> Augment:
    """(key, Batch) -> Batch for a training step: labels recomputed, nothing stored.

    `batch.index` points into `images` f32[N,H,W,C]. Bind the teacher with its running
    statistics.

    Deviates: the released CIFAR and TinyImageNet code leaves the teacher in training
    mode, so its labels come from the statistics of mixed batches.
    """

    def relabel(key: Array, batch: Batch) -> Batch:
        view = views(key, images, batch.index)
        return relabelled(batch, view, teacher(view), temperature)

    return relabel


def record(
    teacher: LogitsFn, views: Views, key: Array, images: Array, index: Array
) -> Array:
    """The teacher's logits f16[B,K] of the views of one epoch, to store: 2 K bytes a
    row. `views` with the same key draws the images again.
    """
    return teacher(views(key, images, index)).astype(jnp.float16)
