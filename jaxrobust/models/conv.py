"""A convolution whose derivatives of every order are fast inside XLA:CPU loops.

XLA:CPU has a fast kernel for convolutions in one layout (NHWC input, HWIO kernel) and a
pass that rewrites others into it, but that pass walks the entry computation only. JAX
writes the gradients of a convolution in other layouts, so within `scan`, `fori_loop`,
`cond` or `map` they run in a naive kernel, 6 to 100 times slower (jax-ml/jax#12868).

A convolution is bilinear, and so are its two gradients. With the trilinear form
<g, conv(x, w)> the derivative of each of

    conv(x, w),    input_grad(g, w),    weight_grad(x, g)

is made of the other two. Here each is written in the fast layout and is told so, hence
gradients, gradients of gradients and so on never leave it.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust.models import winograd
from jaxrobust.models.unit_stride import NHWC, convolve_unit_stride


class Axis(NamedTuple):
    """One spatial dimension of a convolution; two of them are its geometry."""

    size: int
    kernel: int
    stride: int
    before: int
    after: int

    @property
    def output(self) -> int:
        """The size of the result."""
        padded = self.size + self.before + self.after
        return (padded - self.kernel) // self.stride + 1

    @property
    def reach(self) -> int:
        """From the first to the last position of the kernel's first tap."""
        return self.stride * (self.output - 1) + 1


Geometry = tuple[Axis, Axis]


def convolve(
    x: Array,
    w: Array,
    stride: Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> Array:
    """Cross-correlation, equal to `lax.conv_general_dilated` in NHWC / HWIO.

    x [B,H,W,I], w [h,w,I,O] -> [B,H',W',O]. Differentiable any number of times in
    reverse mode, also under `vmap`; `jax.jvp` raises TypeError (take Hessian-vector
    products as the gradient of <gradient, vector>).
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], stride, padding)
    height, width = (
        Axis(x.shape[1 + i], w.shape[i], stride[i], *map(int, padding[i]))
        for i in range(2)
    )
    return _conv(x, w, (height, width))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, w: Array, geometry: Geometry) -> Array:
    """[B,H,W,I], [h,w,I,O] -> [B,H',W',O]."""
    if _pointwise(geometry):
        return _visited(x, geometry) @ w[0, 0]
    stride = [axis.stride for axis in geometry]
    pads = [(axis.before, axis.after) for axis in geometry]
    if stride == [1, 1]:
        return convolve_unit_stride(x, w, pads)
    return lax.conv_general_dilated(x, w, stride, pads, dimension_numbers=NHWC)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _input_grad(g: Array, w: Array, geometry: Geometry) -> Array:
    """[B,H',W',O], [h,w,I,O] -> [B,H,W,I]."""
    if _pointwise(geometry):
        gaps = [(0, axis.size - axis.reach, axis.stride - 1) for axis in geometry]
        zero = jnp.zeros((), g.dtype)
        return lax.pad(g @ w[0, 0].T, zero, [(0, 0, 0), *gaps, (0, 0, 0)])
    pads = []
    for axis in geometry:
        before = axis.kernel - 1 - axis.before
        after = axis.size + axis.kernel - 1 - axis.reach - before
        pads.append((before, after))
    mirrored = w[::-1, ::-1].transpose(0, 1, 3, 2)
    stride = [axis.stride for axis in geometry]
    if stride == [1, 1]:
        return convolve_unit_stride(g, mirrored, pads)
    return lax.conv_general_dilated(
        g, mirrored, (1, 1), pads, lhs_dilation=stride, dimension_numbers=NHWC
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _weight_grad(x: Array, g: Array, geometry: Geometry) -> Array:
    """[B,H,W,I], [B,H',W',O] -> [h,w,I,O]."""
    if _pointwise(geometry):
        return jnp.einsum("bhwi,bhwo->io", _visited(x, geometry), g)[None, None]
    if _three_by_three(geometry) and winograd.pays_by_weights(x, g):
        pads = [(axis.before, axis.after) for axis in geometry]
        return winograd.weight_grad_3x3(x, g, pads)
    pads = [
        (axis.before, axis.kernel - 1 + axis.reach - axis.size - axis.before)
        for axis in geometry
    ]
    # Batch and channels trade places: the sum over images becomes the one over inputs.
    w = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        pads,
        rhs_dilation=[axis.stride for axis in geometry],
        dimension_numbers=NHWC,
    )
    return w.transpose(1, 2, 0, 3)


def _pointwise(geometry: Geometry) -> bool:
    """A 1x1 kernel without padding is a matrix product over channels."""
    return all((axis.kernel, axis.before, axis.after) == (1, 0, 0) for axis in geometry)


def _three_by_three(geometry: Geometry) -> bool:
    return all((axis.kernel, axis.stride) == (3, 1) for axis in geometry)


def _visited(x: Array, geometry: Geometry) -> Array:
    """The pixels that a pointwise kernel visits."""
    return x[:, :: geometry[0].stride, :: geometry[1].stride]


def _saves(function):
    """The forward rule of a bilinear function: keep both operands."""
    return lambda a, b, geometry: (function(a, b, geometry), (a, b))


_conv.defvjp(
    _saves(_conv),
    lambda geo, xw, g: (_input_grad(g, xw[1], geo), _weight_grad(xw[0], g, geo)),
)
_input_grad.defvjp(
    _saves(_input_grad),
    lambda geo, gw, x: (_conv(x, gw[1], geo), _weight_grad(x, gw[0], geo)),
)
_weight_grad.defvjp(
    _saves(_weight_grad),
    lambda geo, xg, w: (_input_grad(xg[1], w, geo), _conv(xg[0], w, geo)),
)


def canonical(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> Array:
    """`convolve` with the signature that `nn.Conv(conv_general_dilated=...)` expects.

    Dilated and grouped convolutions are left to XLA.
    """
    dilated = {*(lhs_dilation or (1,)), *(rhs_dilation or (1,))} != {1}
    if dilated or feature_group_count != 1 or lhs.ndim != 4:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
        )
    return convolve(lhs, rhs, window_strides, padding)
