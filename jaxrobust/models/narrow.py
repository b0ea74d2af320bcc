"""Convolutions with few channels, dressed up so that XLA:CPU takes its best kernel.

XLA:CPU hands a convolution to YNNPACK only where it has more than 16 input or output
channels (`IsConvolutionOpSupportedByYnn`, openxla/xla); the first stage of a ResNet-20,
a net for digits and every stem stay in a kernel that is half as fast. But p neighbours
in a row, with O channels each, are one pixel of p O channels in the same memory, and

    y[i, p j + q] = sum_v x[i, p j + q + v] w[v] = sum_u x[i, p j + u] w[u - q]

is a convolution of stride p whose kernel is p - 1 taps wider, with zeros in them. The
zeros cost arithmetic (4/3 for 3x3 and p = 2) and buy 1.5 to 3.6 times the speed, as
measured in tests/bench/README.md.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from jaxrobust.models import winograd

NHWC = ("NHWC", "HWIO", "NHWC")

LIMIT = 16
"""At most so many channels on both sides keep a convolution out of YNNPACK."""


def convolve_unit_stride(x: Array, w: Array, pads: Sequence[tuple[int, int]]) -> Array:
    """A plain stride-1 convolution, packed where that pays."""
    inputs, outputs = w.shape[2:]
    height = x.shape[1] + sum(pads[0]) - w.shape[0] + 1
    width = x.shape[2] + sum(pads[1]) - w.shape[1] + 1
    if winograd.pays(x, w, (height, width)):
        return winograd.convolve_3x3(x, w, pads)
    pack = packing(inputs, outputs, width)
    stride, kernel = (1, pack), _widen(w, pack) if pack > 1 else w
    y = lax.conv_general_dilated(x, kernel, stride, pads, dimension_numbers=NHWC)
    return y.reshape(*y.shape[:2], width, outputs)


def packing(inputs: int, outputs: int, width: int) -> int:
    """How many neighbours make one pixel, 1 for none: a power of two dividing width.

    Few inputs make a short inner product, which wants more outputs at a time.
    """
    if max(inputs, outputs) > LIMIT:
        return 1
    wanted = 4 * LIMIT if inputs <= 4 else LIMIT + 1
    pack = 1
    while pack * outputs < wanted and width % (2 * pack) == 0:
        pack *= 2
    return pack if pack * outputs > LIMIT else 1


def _widen(w: Array, pack: int) -> Array:
    """[h,v,I,O] -> [h,v+p-1,I,pO]: output q is the kernel moved q taps to the right."""
    moved = [
        jnp.pad(w, ((0, 0), (q, pack - 1 - q), (0, 0), (0, 0))) for q in range(pack)
    ]
    h, v, inputs, outputs = w.shape
    return jnp.stack(moved, 3).reshape(h, v + pack - 1, inputs, pack * outputs)
