"""What tells a denoiser the time and the class."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxrobust.errors import unknown_name

TIME_SCALE = 1000.0
"""The sinusoids were made for DDPM's step numbers, 0 to 1000."""

MAX_PERIOD = 10_000.0

DTYPES = ("float32", "bfloat16")


def time_embedding(t: Array, width: int) -> Array:
    """Sinusoids of time, f32[B] -> f32[B,width].

    `[cos(1000 t w_k), sin(1000 t w_k)]`, `w_k = 10000^(-k / (width/2))`.

    Ref: Ho et al., arXiv:2006.11239, appendix B.
    """
    exponent = jnp.arange(width // 2, dtype=jnp.float32) / (width // 2)
    angle = TIME_SCALE * t[:, None] * jnp.power(MAX_PERIOD, -exponent)[None, :]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def compute_dtype(name: str) -> jnp.dtype:
    """The type a denoiser computes in; its weights and its output stay float32."""
    if name not in DTYPES:
        raise unknown_name("dtype of a denoiser", name, DTYPES)
    return jnp.dtype(name)


class Conditioning(nn.Module):
    """One vector [B,width] out of time and class: what every block is modulated by."""

    num_classes: int
    width: int
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, t: Array, label: Array) -> Array:
        time = time_embedding(t, self.width).astype(self.dtype)
        time = nn.Dense(self.width, dtype=self.dtype, name="time_in")(time)
        time = nn.Dense(self.width, dtype=self.dtype, name="time_out")(nn.silu(time))
        rows = self.num_classes + 1
        named = nn.Embed(rows, self.width, dtype=self.dtype, name="label")(label)
        return nn.silu(time + named)


class Modulation(nn.Module):
    """`(1 + scale) x + shift`, scale and shift linear in the condition, zero at first.

    Ref: Dhariwal & Nichol, arXiv:2105.05233, eq. 3 (adaptive group normalisation).
    """

    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        affine = nn.Dense(
            2 * x.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros
        )(condition)
        affine = affine.reshape(affine.shape[0], *(1,) * (x.ndim - 2), -1)
        scale, shift = jnp.split(affine, 2, axis=-1)
        return x * (1 + scale) + shift


class Shift(nn.Module):
    """`x + shift`, shift linear in the condition.

    Ref: Ho et al., arXiv:2006.11239, appendix B (the time embedding is added).
    """

    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        shift = nn.Dense(x.shape[-1], dtype=self.dtype)(condition)
        return x + shift.reshape(shift.shape[0], *(1,) * (x.ndim - 2), -1)
