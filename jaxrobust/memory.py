"""What a compiled step needs of a device's memory, what a device has and has used, and
the batch that would fit."""

import logging
import os
import resource
import sys
from typing import Any, NamedTuple

import jax

logger = logging.getLogger(__name__)


class Need(NamedTuple):
    """Bytes on one device: `fixed`, whatever the batch (weights, gradients, a pool of
    images), and `batch`, in proportion to it (what lies between two layers)."""

    fixed: int
    batch: int

    @property
    def total(self) -> int:
        """The predicted peak."""
        return self.fixed + self.batch


def predict(compiled: Any, params: Any) -> Need | None:
    """What XLA laid out for a step over the weights `params`, None if it is silent."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    shared = found.alias_size_in_bytes
    held = found.argument_size_in_bytes + found.output_size_in_bytes - shared
    # Gradients, and copies of spread weights, do not shrink with the batch.
    own = lambda leaf: leaf.addressable_data(0).nbytes
    weights = sum(2 * leaf.nbytes - own(leaf) for leaf in jax.tree.leaves(params))
    constant = min(weights, found.temp_size_in_bytes)
    return Need(held + constant, found.temp_size_in_bytes - constant)


def limit() -> int:
    """Bytes that a device may use: its own, or its share of the host's memory."""
    device = jax.local_devices()[0]
    known = (device.memory_stats() or {}).get("bytes_limit", 0)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return known or host // jax.local_device_count()


def peak() -> int:
    """The most bytes in use so far, by the fullest device of this process or, where
    devices do not count, by the process itself."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    known = max(found.get("peak_bytes_in_use", 0) for found in stats)
    unit = 1 if sys.platform == "darwin" else 1024
    return known or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fitting_batch(need: Need, batch_size: int, limit: int, num_devices: int) -> int:
    """The largest batch that fits into `limit` bytes a device and divides over all, 0
    for none, from the `need` of a step of `batch_size`."""
    room = max(limit - need.fixed, 0)
    return room * batch_size // max(need.batch, 1) // num_devices * num_devices


def fitting_slices(need: Need, batch_size: int, limit: int, num_devices: int) -> int:
    """The fewest slices of a batch that fit into `limit` bytes a device, one at a time
    (`train.accumulate`), each split evenly over the devices; 0 for none."""
    for slices in range(1, batch_size // num_devices + 1):
        even = batch_size % (slices * num_devices) == 0
        if even and need.fixed + need.batch / slices <= limit:
            return slices
    return 0


def announce(need: Need, batch_size: int, limit: int, num_devices: int) -> None:
    """Log what a step is going to need, and what to do where that is too much."""
    sizes = [megabytes(size) for size in (need.total, need.batch)]
    words = "memory: %s predicted on each device, %s of it for the batch of %d"
    logger.info(words, *sizes, batch_size)
    if need.total > limit:
        given = (need, batch_size, limit, num_devices)
        fits, slices = fitting_batch(*given), fitting_slices(*given)
        lower = f"set batch_size to {fits}, which should fit"
        if slices:
            lower += f", or multiply train.accumulate by {slices}"
        other = "set train.shard_params, or lower train.device_gb"
        sizes = [megabytes(size) for size in (need.total, limit)]
        words = "memory: %s is more than the %s of a device: %s"
        logger.warning(words, *sizes, lower if fits else other)


def megabytes(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e6:,.1f} MB"
