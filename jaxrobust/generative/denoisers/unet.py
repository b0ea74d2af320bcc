"""A residual U-Net: from 8x8 digits to 64x64 photographs by its widths alone."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.generative.denoisers.conditioning import (
    Conditioning,
    Modulation,
    Shift,
    compute_dtype,
)
from jaxrobust.models.conv import canonical
from jaxrobust.models.norms import GroupNorm

CHANNELS_PER_GROUP = 8
HEAD_CHANNELS = 64
MAX_GROUPS = 32


EMBEDDINGS = ("scale_shift", "additive")
"""How time and class enter a residual block."""


class UNet(nn.Module):
    """Level l has `widths[l]` channels and half the side of level l-1.

    `num_blocks` residual blocks a level going down, one more going up; in the levels of
    `attention` each is followed by self-attention over the pixels. A residual sum is
    multiplied by `residual_scale`; `dropout` is a share of a block's inner units.

    Ref: Ho et al., arXiv:2006.11239, appendix B; Dhariwal & Nichol, arXiv:2105.05233,
    section 3; with embedding "additive" and residual_scale sqrt(1/2) the DDPM++ of Song
    et al., arXiv:2011.13456, appendix H.
    Deviates: resampling by 2x2 mean and by repetition, without weights of its own; one
    block at the bottom, which attends only where its level does.
    """

    num_classes: int
    widths: tuple[int, ...]
    num_blocks: int
    attention: tuple[int, ...] = ()
    dtype: jnp.dtype = jnp.dtype(jnp.float32)
    embedding: str = "scale_shift"
    dropout: float = 0.0
    residual_scale: float = 1.0

    @nn.compact
    def __call__(
        self, x_t: Array, t: Array, label: Array, train: bool = False
    ) -> Array:
        self._check(x_t.shape)
        width = 4 * self.widths[0]
        condition = Conditioning(self.num_classes, width, self.dtype)(t, label)
        x = _conv(self.widths[0], self.dtype, name="first")(x_t.astype(self.dtype))
        skips = [x]
        for level in range(len(self.widths)):
            if level:
                x = _halve(x)
                skips.append(x)
            for _ in range(self.num_blocks):
                x = self._block(x, condition, level, train)
                skips.append(x)
        x = self._block(x, condition, len(self.widths) - 1, train)
        for level in reversed(range(len(self.widths))):
            for _ in range(self.num_blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self._block(x, condition, level, train)
            x = _double(x) if level else x
        x = nn.silu(_Norm(self.dtype)(x))
        zero = nn.initializers.zeros
        x = _conv(x_t.shape[-1], self.dtype, kernel_init=zero, name="last")(x)
        return x.astype(jnp.float32)

    def _block(self, x: Array, condition: Array, level: int, train: bool) -> Array:
        x = _ResBlock(
            self.widths[level],
            self.dtype,
            self.embedding,
            self.dropout,
            self.residual_scale,
        )(x, condition, train)
        attends = level in self.attention
        return _Attention(self.dtype, self.residual_scale)(x) if attends else x

    def _check(self, shape: tuple[int, ...]) -> None:
        factor = 2 ** (len(self.widths) - 1)
        if shape[1] % factor or shape[2] % factor:
            raise UserError(
                f"unet with {len(self.widths)} widths needs image sides divisible by "
                f"{factor}, not {shape[1]}x{shape[2]}: give fewer widths or resize"
            )


def unet(
    num_classes: int,
    widths: Sequence[int],
    num_blocks: int,
    attention: Sequence[int] = (),
    dtype: str = "float32",
    embedding: str = "scale_shift",
    dropout: float = 0.0,
    residual_scale: float = 1.0,
) -> nn.Module:
    """A U-Net denoiser; `attention` lists the levels (0 is the finest) that attend.

    `embedding` "scale_shift" | "additive": how time and class enter a block.
    """
    if embedding not in EMBEDDINGS:
        raise unknown_name("embedding of a unet", embedding, EMBEDDINGS)
    if not 0 <= dropout < 1:
        raise UserError(f"unet: dropout is {dropout}: give a share from 0 to below 1")
    return UNet(
        num_classes,
        tuple(widths),
        num_blocks,
        tuple(attention),
        compute_dtype(dtype),
        embedding,
        dropout,
        residual_scale,
    )


class _ResBlock(nn.Module):
    width: int
    dtype: jnp.dtype
    embedding: str
    dropout: float
    residual_scale: float

    @nn.compact
    def __call__(self, x: Array, condition: Array, train: bool) -> Array:
        inner = _conv(self.width, self.dtype)(nn.silu(_Norm(self.dtype)(x)))
        if self.embedding == "additive":
            inner = _Norm(self.dtype)(Shift(self.dtype)(inner, condition))
        else:
            inner = Modulation(self.dtype)(_Norm(self.dtype)(inner), condition)
        inner = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(inner))
        zero = nn.initializers.zeros
        inner = _conv(self.width, self.dtype, kernel_init=zero)(inner)
        if x.shape[-1] != self.width:
            x = nn.Dense(self.width, dtype=self.dtype, name="shortcut")(x)
        return (x + inner) * self.residual_scale


class _Attention(nn.Module):
    dtype: jnp.dtype
    residual_scale: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        heads = max(channels // HEAD_CHANNELS, 1)
        pixels = _Norm(self.dtype)(x).reshape(batch, height * width, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(pixels)
        qkv = qkv.reshape(batch, height * width, 3, heads, channels // heads)
        mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        out = nn.Dense(
            channels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out"
        )(mixed.reshape(batch, height * width, channels))
        return (x + out.reshape(x.shape)) * self.residual_scale


def _conv(width: int, dtype: jnp.dtype, **options) -> nn.Conv:
    # XLA's own gradients of convolutions are slow in loops on CPU, and only there.
    own = canonical if jax.default_backend() == "cpu" else None
    return nn.Conv(width, (3, 3), dtype=dtype, conv_general_dilated=own, **options)


class _Norm(nn.Module):
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        groups = max(x.shape[-1] // CHANNELS_PER_GROUP, 1)
        groups = math.gcd(min(groups, MAX_GROUPS), x.shape[-1])
        return GroupNorm(groups, epsilon=1e-5, dtype=self.dtype)(x)


def _halve(x: Array) -> Array:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def _double(x: Array) -> Array:
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
