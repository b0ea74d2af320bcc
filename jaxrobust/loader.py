"""Which image comes when: one pool, one index space, an order that needs no memory.

The order of a run is a function of (seed, epoch), so a resumed run sees the same
images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from jaxrobust import rng, sharding
from jaxrobust.data.image_set import ImageSet, gather
from jaxrobust.errors import UserError
from jaxrobust.types import Subset


@dataclass(frozen=True)
class Pool:
    """All images that training may touch: the original ones first, then generated ones.

    Positions below `num_original` are original images; parts stay where they are
    (memory or disk) until they are gathered.
    """

    parts: tuple[ImageSet, ...]

    @property
    def num_original(self) -> int:
        """How many images are not generated."""
        return len(self.parts[0])

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, those of the original images."""
        return self.parts[0].class_names

    @property
    def label(self) -> np.ndarray:
        """i32[N], the labels of the whole pool."""
        return np.concatenate([part.label for part in self.parts])

    @property
    def source_rows(self) -> np.ndarray:
        """int64[N], each image's place in the file or folder that it came from."""
        return np.concatenate([part.source_rows for part in self.parts])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of every image."""
        return tuple(self.parts[0].image.shape[1:])

    @property
    def nbytes(self) -> int:
        """The size of all pixels."""
        return len(self) * math.prod(self.image_shape)

    def gather(self, index: np.ndarray) -> np.ndarray:
        """Images u8[n,H,W,C] at pool positions [n], read in file order."""
        index = np.asarray(index, np.int64)
        out = np.empty((len(index), *self.image_shape), np.uint8)
        start = 0
        for part in self.parts:
            here = np.flatnonzero((index >= start) & (index < start + len(part)))
            out[here] = gather(part.image, index[here] - start)
            start += len(part)
        return out


def make_pool(original: ImageSet, generated: ImageSet | None) -> Pool:
    """One pool of both; raises `UserError` where their shapes or classes disagree."""
    if generated is None:
        return Pool((original,))
    if generated.image.shape[1:] != original.image.shape[1:]:
        raise UserError(
            f"generated images are {generated.image.shape[1:]}, original ones "
            f"{original.image.shape[1:]}: generate or resize them to the same shape"
        )
    if generated.num_classes != original.num_classes:
        raise UserError(
            f"the generated pool has {generated.num_classes} classes, the original "
            f"data {original.num_classes}: choose the same classes for both"
        )
    return Pool((original, generated))


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    return rng.permutation(seed, epoch, size)


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Whole batches in `size` images; raises `UserError` where there is none."""
    if size < batch_size:
        raise UserError(
            f"batch_size {batch_size} is larger than the {size} images to train on: "
            f"lower train.batch_size to at most {size}"
        )
    return size // batch_size


def batches(
    subset: Subset,
    seed: int,
    batch_size: int,
    first_step: int,
    count: int,
    origin: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Pool positions i32[count,B] and weights f32[count,B] of consecutive steps.

    Every epoch is a fresh permutation of the subset; its last, incomplete batch is left
    out (a different one each time), because padding would enter BatchNorm statistics.
    Epochs begin at step `origin`, where the subset was chosen, with orders of their
    own.
    """
    size = len(subset.index)
    per_epoch = steps_per_epoch(size, batch_size)
    chosen = []
    for step in range(first_step, first_step + count):
        epoch, place = divmod(step - origin, per_epoch)
        order = _epoch_order(seed, origin + epoch, size)
        chosen.append(order[place * batch_size : (place + 1) * batch_size])
    rows = np.stack(chosen)
    return subset.index[rows].astype(np.int32), subset.weight[rows]


class Feed:
    """Hands chunks of batches to the devices; `take_rows` finds a batch in a chunk.

    A pool of up to `device_gb` gigabytes lives as uint8 on each of them for the whole
    run; a larger one stays on disk, and of the next chunk each device gets the rows of
    its own share of every batch, read by its own process and by no other.
    """

    def __init__(self, pool: Pool, mesh: Mesh, device_gb: float):
        self.pool, self._mesh = pool, mesh
        self._label = pool.label
        self._resident: tuple[Array, Array] | None = None
        if pool.nbytes <= device_gb * 1e9:
            image = pool.gather(np.arange(len(pool)))
            self._resident = sharding.replicate((image, self._label), mesh)

    def __call__(self, index: np.ndarray) -> tuple[Array, Array, Array]:
        """(images u8[P,H,W,C], labels i32[P], rows into them) for `index` [...,B].

        From disk for D > 1 devices: images u8[D,P/D,H,W,C] and labels i32[D,P/D], of
        which each device holds its part, and rows into the part of the device that the
        row belongs to. A batch that does not divide over the devices comes whole.
        """
        if self._resident is not None:
            return (*self._resident, jnp.asarray(index))
        devices = self._mesh.devices.size
        if devices > 1 and index.shape[-1] % devices == 0:
            return self._in_parts(index, devices)
        flat = index.reshape(-1)
        image = jnp.asarray(self.pool.gather(flat))
        rows = jnp.arange(flat.size, dtype=jnp.int32).reshape(index.shape)
        return image, jnp.asarray(self._label[flat]), rows

    def _in_parts(self, index: np.ndarray, devices: int) -> tuple[Array, Array, Array]:
        shares = index.reshape(-1, devices, index.shape[-1] // devices)
        of = lambda device: shares[:, device].reshape(-1)
        place = np.arange(of(0).size, dtype=np.int32)
        rows = np.broadcast_to(place.reshape(len(shares), 1, -1), shares.shape)
        size = (len(place), *self.pool.image_shape)
        image = lambda device: self.pool.gather(of(device))
        label = lambda device: self._label[of(device)]
        return (
            sharding.by_device(image, size, self._mesh),
            sharding.by_device(label, size[:1], self._mesh),
            jnp.asarray(rows.reshape(index.shape)),
        )


def take_rows(
    images: Array, labels: Array, rows: Array, mesh: Mesh
) -> tuple[Array, Array]:
    """Inside jit: (u8[B,H,W,C], i32[B]) of one batch, out of a chunk that a `Feed`
    gave and the batch's rows i32[B].

    Of a chunk in parts each device takes its own rows from its own part: no image is
    exchanged, and the batch lies split over the devices.
    """
    if images.ndim == 4:
        return images[rows], labels[rows]
    own = lambda images, labels, rows: (images[0][rows], labels[0][rows])
    part = PartitionSpec(sharding.AXIS)
    take = jax.shard_map(own, mesh=mesh, in_specs=part, out_specs=part)
    return take(images, labels, rows)


def to_unit(image: Array) -> Array:
    """uint8 pixels as f32 in [0,1]."""
    return image.astype(jnp.float32) / 255.0


def padded_rows(
    index: Sequence[int] | np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut `index` into i32[S,B], the last batch filled up; and bool[S,B], which are
    real.

    For evaluation only: frozen statistics make the fillers harmless.
    """
    index = np.asarray(index)
    steps = -(-len(index) // batch_size)
    filled = np.resize(index, steps * batch_size).astype(np.int32)
    real = np.arange(steps * batch_size) < len(index)
    return filled.reshape(steps, batch_size), real.reshape(steps, batch_size)
