"""Convolutions of stride 1, each in the form that XLA:CPU runs fastest.

XLA:CPU has two kernels and picks by shape (`IsConvolutionOpSupportedByYnn` in
openxla/xla). YNNPACK's is about twice as fast on a core, but its work is split by
output channels only, so a small kernel keeps it on one core or two. Eigen's uses all
cores, wants 32 or more output channels, and gets what YNNPACK refuses: at most 16
channels on both sides, an image's few channels with 32 outputs or less, or a result
that is taller than the image.

    many channels        Winograd's form, where it pays (winograd.py)
    few outputs          one matrix product for all taps, then a sum of shifted pieces
    few on both sides    neighbours packed into one pixel with more channels
    an image's few       the same, until there are 64 outputs
    small kernel, many   one row too many asked for and dropped: Eigen's kernel
      cores a device
    else                 the convolution itself: YNNPACK's kernel

Thresholds were measured on jax 0.10.2, see tests/bench/README.md; they move time only.
"""

import os
from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust.models import winograd

NHWC = ("NHWC", "HWIO", "NHWC")
Pads = Sequence[tuple[int, int]]

FEW = 4
"""So many channels or fewer are an image's."""

NARROW = 16
"""At most so many channels on both sides keep a convolution out of YNNPACK."""

YNN_OUTPUTS, YNN_CHANNELS = 128, 128**2
"""YNNPACK uses several cores from so many outputs, and inputs x outputs, upwards."""

MANY_CORES = 4
"""So many for each device make up for Eigen's slower kernel."""


def convolve_unit_stride(x: Array, w: Array, pads: Pads) -> Array:
    """[B,H,W,I], [h,v,I,O] -> [B,H',W',O]; `pads` ((top, bottom), (left, right))."""
    height, width = (x.shape[1 + i] + sum(pads[i]) - w.shape[i] + 1 for i in (0, 1))
    if winograd.pays(x, w, (height, width)):
        return winograd.convolve_3x3(x, w, pads)
    inputs, outputs = w.shape[2:]
    if outputs <= FEW < inputs:
        return _sum_of_shifts(x, w, pads)
    pack = packing(inputs, outputs, width)
    wide = _widen(w, pack) if pack > 1 else w
    # With an image's few inputs YNNPACK's one core beats all of Eigen's.
    idle = _keeps_one_core(inputs, outputs) and cores_per_device() >= MANY_CORES
    if inputs > FEW and height == x.shape[1] and idle:
        y = _plain(x, wide, ((pads[0][0], pads[0][1] + 1), pads[1]), pack)[:, :-1]
    else:
        y = _plain(x, wide, pads, pack)
    return y.reshape(-1, height, width, outputs)


def packing(inputs: int, outputs: int, width: int) -> int:
    """How many neighbours make one pixel, 1 for none: a power of two dividing width.

    Few inputs make a short inner product, which wants more outputs at a time.
    """
    if max(inputs, outputs) > NARROW and inputs > FEW:
        return 1
    wanted = 4 * NARROW if inputs <= FEW else NARROW + 1
    pack = 1
    while pack * outputs < wanted and width % (2 * pack) == 0:
        pack *= 2
    return pack if pack * outputs > NARROW else 1


def cores_per_device() -> int:
    """Cores that this process may use for each of its devices."""
    known = getattr(os, "sched_getaffinity", None)
    cores = len(known(0)) if known else os.cpu_count() or 1
    return cores // jax.local_device_count()


def _keeps_one_core(inputs: int, outputs: int) -> bool:
    return outputs < YNN_OUTPUTS or inputs * outputs < YNN_CHANNELS


def _plain(x: Array, w: Array, pads: Pads, stride: int = 1) -> Array:
    return lax.conv_general_dilated(x, w, (1, stride), pads, dimension_numbers=NHWC)


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


def _widen(w: Array, pack: int) -> Array:
    """A kernel for p neighbours at a time: [h,v,I,O] -> [h,v+p-1,I,pO].

    p neighbours in a row, O channels each, are one pixel of p O in the same memory, and

        y[p j + q] = sum_v x[p j + q + v] w[v] = sum_u x[p j + u] w[u - q]

    is a convolution of stride p whose kernel is p - 1 taps wider, with zeros in them.
    They cost arithmetic (4/3 for 3x3 and p = 2) and buy a faster kernel.
    """
    moved = [
        jnp.pad(w, ((0, 0), (q, pack - 1 - q), (0, 0), (0, 0))) for q in range(pack)
    ]
    height, width, inputs, outputs = w.shape
    shape = (height, width + pack - 1, inputs, pack * outputs)
    return jnp.stack(moved, 3).reshape(shape)
