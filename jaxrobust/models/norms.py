"""Normalisation by the statistics of each image."""

from functools import partial

import jax
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
    sum over (H, W, C / groups) takes up to eight times as long. Differentiable any
    number of times in reverse mode, as the convolutions are.
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
        given = scale, bias, groups, self.epsilon
        return jnp.asarray(_normalised(x.astype(jnp.float32), *given), self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalised(
    x: Array, scale: Array, bias: Array, groups: int, epsilon: float
) -> Array:
    """f32[B,H,W,C] with statistics of every image and group."""
    return _forward(x, scale, bias, groups, epsilon)[0]


def _forward(x: Array, scale: Array, bias: Array, groups: int, epsilon: float):
    """The result, and what its gradient takes: `centre` and `slope` f32[B,C] with
    x^ = (x - centre) slope."""
    centre = _over_groups(x.mean((1, 2)), groups)
    # Rounding may take the difference below zero.
    square = _over_groups((x**2).mean((1, 2)), groups)
    slope = lax.rsqrt(jnp.maximum(square - centre**2, 0.0) + epsilon)
    gain, offset = _by_pixel(slope * scale[None]), _by_pixel(bias[None])
    out = (x - _by_pixel(centre)) * gain + offset
    return out, (x, centre, slope, scale)


def _backward(groups: int, epsilon: float, kept, g: Array):
    """dx = slope (g scale - <g scale> - x^ <g scale x^>), <> the mean over a group.

    Two sums over the pixels of g and g x, then one product for each: autodiff goes
    through the two statistics one by one, and takes nearly twice as long.
    """
    x, centre, slope, scale = kept
    mean = g.mean((1, 2))
    along = ((g * x).mean((1, 2)) - mean * centre) * slope
    bend = slope**2 * _over_groups(along * scale[None], groups)
    shift = bend * centre - slope * _over_groups(mean * scale[None], groups)
    dx = g * _by_pixel(slope * scale[None]) - x * _by_pixel(bend) + _by_pixel(shift)
    pixels = x.shape[1] * x.shape[2]
    return dx, pixels * along.sum(0), pixels * mean.sum(0)


_normalised.defvjp(_forward, _backward)


def _over_groups(values: Array, groups: int) -> Array:
    """f32[B,C]: means over each group, the same for all of its channels."""
    batch, channels = values.shape
    means = values.reshape(batch, groups, -1).mean(-1)
    return jnp.repeat(means, channels // groups, axis=1)


def _by_pixel(values: Array) -> Array:
    return values[:, None, None]
