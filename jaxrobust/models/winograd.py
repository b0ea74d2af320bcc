"""3x3 convolutions with 2.25 times fewer multiplications, for XLA:CPU.

Winograd's F(2x2, 3x3): a 2x2 block of the result comes from a 4x4 tile d of the input,

    Y = A^T [ (G w G^T) * (B^T d B) ] A,

with 16 products for each input and output channel where the direct sum has 36. Over all
tiles they are 16 matrix products [tiles, I] x [I, O], the form XLA:CPU runs best. B and
A hold only 0, 1 and -1, G also 1/2, so the result is as exact as the direct sum
(relative error 1e-6). G w G^T does not depend on the image: an attack computes it once.

Y is linear in w, so the gradient by w has 16 products in place of 36 as well: with g,
the gradient by Y, in the same 2x2 blocks,

    dw = G^T [ sum over tiles of (B^T d B) * (A g A^T) ] G,

16 products [I, tiles] x [tiles, O], and no operand has to be laid out anew.

Ref: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks,
arXiv:1509.09308, section 4.1.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)

MIN_CHANNELS = 128
"""With fewer, moving tiles takes longer than the multiplications that they save."""

CHANNELS_PER_TILE = 4
"""With fewer tiles than that the time goes into reading the 16 transformed kernels."""

CHANNELS_PER_TILE_SUMMED = 1
"""The same where tiles are summed: 16 results are written then."""

MIN_PRODUCTS = 2**28
"""A smaller convolution never earns back the longer compilation (half a second)."""


def pays(x: Array, w: Array, output: tuple[int, int]) -> bool:
    """Whether a stride-1 convolution is faster this way (tests/bench/README.md)."""
    height, width = output
    return w.shape[:2] == (3, 3) and _pays(
        (x.shape[0], height, width), w.shape[2:], x.dtype, CHANNELS_PER_TILE
    )


def pays_by_weights(x: Array, g: Array) -> bool:
    """Whether its gradient by a 3x3 kernel is; g is the gradient of the result."""
    channels = (x.shape[3], g.shape[3])
    return _pays(g.shape[:3], channels, x.dtype, CHANNELS_PER_TILE_SUMMED)


def _pays(
    positions: Sequence[int], channels: Sequence[int], dtype, channels_per_tile: int
) -> bool:
    batch, height, width = positions
    if height % 2 or width % 2 or dtype != jnp.float32:
        return False
    count = batch * height * width
    return (
        min(channels) >= MIN_CHANNELS
        and channels_per_tile * (count // 4) >= max(channels)
        and count * 9 * channels[0] * channels[1] >= MIN_PRODUCTS
    )


def convolve_3x3(x: Array, w: Array, pads: Sequence[tuple[int, int]]) -> Array:
    """[B,H,W,I], [3,3,I,O] -> [B,H',W',O] at stride 1, H' and W' even."""
    batch = x.shape[0]
    height, width = (x.shape[1 + i] + sum(pads[i]) - 2 for i in (0, 1))
    kernels = jnp.einsum("ai,bj,ijco->abco", G, G, w)
    tiles = _tiles(x, pads)
    products = [
        [_pixelwise(tiles[a][b], kernels[a, b]) for b in range(4)] for a in range(4)
    ]
    by_column = [_leave([products[a][b] for a in range(4)]) for b in range(4)]
    rows = [_leave([by_column[b][p] for b in range(4)]) for p in range(2)]
    y = jnp.stack([jnp.stack(row, axis=3) for row in rows], axis=2)
    return y.reshape(batch, height, width, w.shape[3])


def weight_grad_3x3(x: Array, g: Array, pads: Sequence[tuple[int, int]]) -> Array:
    """[B,H,W,I], [B,H',W',O] -> [3,3,I,O] at stride 1, H' and W' even."""
    tiles = _tiles(x, pads)
    blocks = [_leave_back(_of_blocks(r, axis=2)) for r in _leave_back(_of_blocks(g, 1))]
    products = [
        jnp.stack([_summed(tiles[a][b], blocks[a][b]) for b in range(4)])
        for a in range(4)
    ]
    return jnp.einsum("ai,bj,abco->ijco", G, G, jnp.stack(products))


def _tiles(x: Array, pads: Sequence[tuple[int, int]]) -> list[tuple[Array, ...]]:
    """B^T d B: entry [a][b] of every tile, [B,H'/2,W'/2,I]."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    return [
        _enter(_every_second(row, axis=2)) for row in _enter(_every_second(x, axis=1))
    ]


def _of_blocks(g: Array, axis: int) -> list[Array]:
    """Entry p of every 2-block along `axis`."""
    return [lax.slice_in_dim(g, p, None, 2, axis) for p in range(2)]


def _every_second(x: Array, axis: int) -> list[Array]:
    """Entry i of every 4-tile along `axis`; tiles start at each second position."""
    last = x.shape[axis] - 3
    return [lax.slice_in_dim(x, i, i + last, 2, axis) for i in range(4)]


def _enter(d: Sequence[Array]) -> tuple[Array, ...]:
    """B^T d."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _leave(m: Sequence[Array]) -> tuple[Array, Array]:
    """A^T m."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _leave_back(g: Sequence[Array]) -> tuple[Array, ...]:
    """A g."""
    return g[0], g[0] + g[1], g[0] - g[1], -g[1]


def _summed(x: Array, g: Array) -> Array:
    """[B,H,W,I], [B,H,W,O] -> [I,O]."""
    return x.reshape(-1, x.shape[3]).T @ g.reshape(-1, g.shape[3])


def _pixelwise(x: Array, w: Array) -> Array:
    """[B,H,W,I], [I,O] -> [B,H,W,O]."""
    return (x.reshape(-1, x.shape[3]) @ w).reshape(*x.shape[:3], w.shape[1])
