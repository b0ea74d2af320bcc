"""Convolutions of stride 1, each in the form that XLA:CPU runs fastest.

XLA:CPU hands a convolution to YNNPACK only where it has more than 16 input or output
channels (`IsConvolutionOpSupportedByYnn`, openxla/xla); a net for digits, the first
stage of a ResNet-20 and most image gradients stay in a kernel half as fast or worse.

    many channels       Winograd's form, where it pays (winograd.py)
    few outputs         one matrix product for all taps, then a sum of shifted pieces
    few on both sides   neighbours packed into one pixel with more channels
    else                the convolution itself

Thresholds were measured on jax 0.10.2, see tests/bench/README.md; they move time only.
"""

from collections.abc import Sequence
from functools import reduce

import jax.numpy as jnp
from jax import Array, lax

from jaxrobust.models import winograd

NHWC = ("NHWC", "HWIO", "NHWC")
Pads = Sequence[tuple[int, int]]

YNN_LIMIT = 16
"""At most so many channels on both sides keep a convolution out of YNNPACK."""

FEW_OUTPUTS = 4


def convolve_unit_stride(x: Array, w: Array, pads: Pads) -> Array:
    """[B,H,W,I], [h,v,I,O] -> [B,H',W',O]; `pads` ((top, bottom), (left, right))."""
    height, width = (x.shape[1 + i] + sum(pads[i]) - w.shape[i] + 1 for i in (0, 1))
    if winograd.pays(x, w, (height, width)):
        return winograd.convolve_3x3(x, w, pads)
    inputs, outputs = w.shape[2:]
    if outputs <= FEW_OUTPUTS < inputs:
        return _sum_of_shifts(x, w, pads)
    pack = packing(inputs, outputs, width)
    return _packed(x, w, pads, pack) if pack > 1 else _plain(x, w, pads)


def _plain(x: Array, w: Array, pads: Pads, stride=(1, 1)) -> Array:
    return lax.conv_general_dilated(x, w, stride, pads, dimension_numbers=NHWC)


def _sum_of_shifts(x: Array, w: Array, pads: Pads) -> Array:
    """y[i] = sum_u (x w[u])[i + u]: the product with all taps at once comes first."""
    height, width, inputs, outputs = w.shape
    taps = w.transpose(2, 0, 1, 3).reshape(inputs, height * width * outputs)
    product = (x.reshape(-1, inputs) @ taps).reshape(*x.shape[:3], -1)
    pieces, zero = [], jnp.zeros((), x.dtype)
    for i in range(height):
        for j in range(width):
            start = (i * width + j) * outputs
            piece = product[..., start : start + outputs]
            rows = (pads[0][0] - i, pads[0][1] + i - height + 1, 0)
            columns = (pads[1][0] - j, pads[1][1] + j - width + 1, 0)
            config = ((0, 0, 0), rows, columns, (0, 0, 0))
            pieces.append(lax.pad(piece, zero, config))
    return reduce(jnp.add, pieces)


def packing(inputs: int, outputs: int, width: int) -> int:
    """How many neighbours make one pixel, 1 for none: a power of two dividing width.

    Few inputs make a short inner product, which wants more outputs at a time.
    """
    if max(inputs, outputs) > YNN_LIMIT:
        return 1
    wanted = 4 * YNN_LIMIT if inputs <= 4 else YNN_LIMIT + 1
    pack = 1
    while pack * outputs < wanted and width % (2 * pack) == 0:
        pack *= 2
    return pack if pack * outputs > YNN_LIMIT else 1


def _packed(x: Array, w: Array, pads: Pads, pack: int) -> Array:
    """p neighbours in a row, O channels each, are one pixel of p O in the same memory:

        y[p j + q] = sum_v x[p j + q + v] w[v] = sum_u x[p j + u] w[u - q],

    a convolution of stride p whose kernel is p - 1 taps wider, with zeros in them. They
    cost arithmetic (4/3 for 3x3 and p = 2) and buy 1.5 to 3.6 times the speed.
    """
    moved = [
        jnp.pad(w, ((0, 0), (q, pack - 1 - q), (0, 0), (0, 0))) for q in range(pack)
    ]
    height, width, inputs, outputs = w.shape
    wide = jnp.stack(moved, 3).reshape(height, width + pack - 1, inputs, pack * outputs)
    y = _plain(x, wide, pads, (1, pack))
    return y.reshape(*y.shape[:2], pack * y.shape[2], outputs)
