"""A residual MLP over all pixels: for images so small that convolutions do not pay."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxrobust.generative.denoisers.conditioning import (
    Conditioning,
    Modulation,
    compute_dtype,
)


class MLP(nn.Module):
    """`num_blocks` pre-norm residual blocks of `width`, modulated by time and class.

    A gated copy of x_t joins the output, pixel by pixel: `out = f(x_t) + (1 + a) x_t +
    b` with a and b linear in the condition. Near the clean image this is most of the
    answer: without it digits needed twice the steps and kept a grey background.
    """

    num_classes: int
    width: int
    num_blocks: int
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(
        self, x_t: Array, t: Array, label: Array, train: bool = False
    ) -> Array:
        pixels = math.prod(x_t.shape[1:])
        condition = Conditioning(self.num_classes, self.width, self.dtype)(t, label)
        flat = x_t.reshape(-1, pixels).astype(self.dtype)
        hidden = nn.Dense(self.width, dtype=self.dtype, name="first")(flat)
        for _ in range(self.num_blocks):
            hidden = _Block(self.dtype)(hidden, condition)
        hidden = nn.silu(nn.LayerNorm(dtype=self.dtype)(hidden))
        last = nn.Dense(
            pixels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="last"
        )(hidden)
        last = last + Modulation(self.dtype, name="skip")(flat, condition)
        return last.reshape(x_t.shape).astype(jnp.float32)


def mlp(
    num_classes: int, width: int, num_blocks: int, dtype: str = "float32"
) -> nn.Module:
    """A residual MLP denoiser, for tiny images: parameters grow with H W C width."""
    return MLP(num_classes, width, num_blocks, compute_dtype(dtype))


class _Block(nn.Module):
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden: Array, condition: Array) -> Array:
        width = hidden.shape[-1]
        inner = nn.LayerNorm(dtype=self.dtype)(hidden)
        inner = nn.silu(Modulation(self.dtype)(inner, condition))
        inner = nn.silu(nn.Dense(width, dtype=self.dtype)(inner))
        return hidden + nn.Dense(
            width, dtype=self.dtype, kernel_init=nn.initializers.zeros
        )(inner)
