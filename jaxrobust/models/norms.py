"""Normalisation by the statistics of each image."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from jaxrobust.errors import UserError


class GroupNorm(nn.Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, statistics over the pixels and
    the channels of a group, for each image f32[B,H,W,C]; with as many groups as
    channels it is instance normalisation.

    Statistics and the result before its cast to `dtype` are float32; the variance is
    the mean of squares less the square of the mean. `num_groups` 0 is one group for
    each channel. Raises `UserError` where the groups do not divide the channels.

    Ref: Wu and He, arXiv:1803.08494; Ulyanov et al., arXiv:1607.08022. The parameters
    are those of `nn.GroupNorm` and `nn.InstanceNorm`. The sums go over pixels first and
    over the few channels of a group last: XLA:CPU has vector code for that, where one
    sum over (H, W, C / groups) takes up to eight times as long.
    """

    num_groups: int
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        groups = self.num_groups or channels
        if channels % groups:
            raise UserError(
                f"{channels} channels cannot be split into {groups} groups: choose "
                f"widths that {groups} divides, or another norm"
            )
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        pixels = x.astype(jnp.float32)

        def mean(values: Array) -> Array:
            """f32[B,C]: over a group, the same for each of its channels."""
            by_group = values.mean((1, 2)).reshape(len(values), groups, -1).mean(-1)
            return jnp.repeat(by_group, channels // groups, axis=1)

        centre = mean(pixels)
        # Rounding may take the difference below zero.
        variance = jnp.maximum(mean(pixels**2) - centre**2, 0.0)
        gain = lax.rsqrt(variance + self.epsilon) * scale[None]
        by_pixel = lambda values: values[:, None, None]
        out = (pixels - by_pixel(centre)) * by_pixel(gain) + bias[None, None, None]
        return out.astype(self.dtype)
