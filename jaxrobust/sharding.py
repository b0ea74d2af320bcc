"""One program on any number of devices: batches are split, everything else is copied,
or, where memory is short, large weights are laid over the devices between two steps."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrobust.errors import UserError

AXIS = "data"
LARGE_BYTES = 2**16
"""Smaller arrays are copied: to fetch them takes a latency, whatever their size."""
T = TypeVar("T")


def make_mesh(num_devices: int) -> Mesh:
    """A one-axis mesh over the first `num_devices` devices, 0 for all of them."""
    devices = jax.devices()
    if not 0 <= num_devices <= len(devices):
        raise UserError(
            f"{num_devices} devices asked for, {len(devices)} found: set num_devices "
            f"to 1..{len(devices)}, or to 0 for all"
        )
    chosen = np.array(devices[: num_devices or len(devices)])
    return Mesh(chosen, (AXIS,), axis_types=(AxisType.Auto,))


def split_batch(tree: T, mesh: Mesh) -> T:
    """Inside jit: lay the leading axis of every leaf over the devices."""
    layout = split(mesh)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, layout), tree)


def by_device(
    part: Callable[[int], np.ndarray], shape: tuple[int, ...], mesh: Mesh
) -> jax.Array:
    """[D,*shape] over D devices, of which device i holds `part(i)`, an array of
    `shape`; no process makes the parts of another's devices."""
    make = lambda where: part(where[0].start or 0)[None]
    whole = (mesh.devices.size, *shape)
    return jax.make_array_from_callback(whole, split(mesh), make)


def lay_columns(value: np.ndarray, mesh: Mesh) -> jax.Array:
    """A host array [S,B,...], equal on all processes, laid out as `columns` says."""
    make = lambda where: value[where]
    return jax.make_array_from_callback(value.shape, columns(mesh), make)


def columns(mesh: Mesh) -> NamedSharding:
    """The layout of S batches [S,B,...], each of them cut over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, AXIS))


def collect_columns(value: jax.Array, mesh: Mesh) -> np.ndarray:
    """What `lay_columns` lays out, on every host; on a device there is never more than
    one of the S batches."""
    if value.is_fully_addressable:
        return np.asarray(value)
    return np.stack([_batch(value, number, mesh) for number in range(len(value))])


@partial(jax.jit, static_argnums=2)
def _batch(value: jax.Array, number: int, mesh: Mesh) -> jax.Array:
    return constrain_replicated(value[number], mesh)


def split(mesh: Mesh) -> NamedSharding:
    """The layout of a leading axis that is cut over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def share_rows(tree: T, mesh: Mesh | None) -> T:
    """Inside jit: as `split_batch`, for rows that were gathered out of a batch, which
    would be copied to every device. Rows that do not divide evenly are left to the
    compiler, and all are without a mesh."""
    if mesh is None or len(jax.tree.leaves(tree)[0]) % mesh.devices.size:
        return tree
    return split_batch(tree, mesh)


def constrain(tree: T, layout: Any) -> T:
    """Inside jit: lay every leaf out as the tree `layout` says."""
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, layout)


def constrain_replicated(tree: T, mesh: Mesh) -> T:
    """Inside jit: a full copy of every leaf on every device."""
    layout = replicated(mesh)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, layout), tree)


@partial(jax.jit, static_argnums=1)
def gather(tree: T, mesh: Mesh) -> T:
    """Arrays split over the devices, or over processes, as a full copy on each."""
    return constrain_replicated(tree, mesh)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Host arrays, equal on all processes, as device arrays with a copy on each
    device."""
    layout = replicated(mesh)
    put = lambda x: jax.make_array_from_process_local_data(layout, np.asarray(x))
    return jax.tree.map(put, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """The layout of a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def spread(tree: Any, mesh: Mesh) -> Any:
    """As `replicate`, but of large arrays each device gets its part of the longest axis
    that divides evenly; where none does, a copy."""

    def put(x):
        value = np.asarray(x)
        layout = _spread_layout(value, mesh)
        return jax.make_array_from_callback(value.shape, layout, lambda i: value[i])

    return jax.tree.map(put, tree)


def _spread_layout(value: np.ndarray, mesh: Mesh) -> NamedSharding:
    size, count = value.shape, mesh.devices.size
    even = [axis for axis, length in enumerate(size) if length % count == 0]
    if value.nbytes < LARGE_BYTES or not even:
        return replicated(mesh)
    longest = max(even, key=lambda axis: size[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, AXIS))


def layouts(tree: Any, mesh: Mesh) -> Any:
    """How the leaves of `spread` or `replicate` lie; any other is to be copied."""
    own = lambda x: replicated(mesh) if x.is_fully_replicated else x.sharding
    return jax.tree.map(own, tree)


def whole(tree: T, mesh: Mesh) -> T:
    """Arrays of `spread` as a full copy on each device; of `replicate` as they are."""
    copied = all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree))
    return tree if copied else gather(tree, mesh)


def replicate_key(key: jax.Array, mesh: Mesh) -> jax.Array:
    """A random key, equal on all processes, with a copy on each device."""
    data = replicate(np.asarray(jax.random.key_data(key)), mesh)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `UserError` where a batch cannot be split evenly over the devices."""
    count = mesh.devices.size
    if batch_size % count:
        raise UserError(
            f"batch_size {batch_size} does not divide over {count} devices: "
            f"try {batch_size // count * count or count}"
        )


def is_lead() -> bool:
    """True in the one process that writes files and speaks to the user."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Wait until every process has come to this place; `name` tells places apart."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def split_cpu(count: int) -> None:
    """Let the CPU be `count` devices, 0 to leave it as it is. Small networks keep one
    core of it busy each. Must run before any other JAX call."""
    if count < 0:
        raise UserError(f"--cpu_devices={count} is negative: one for each core is best")
    if count:
        jax.config.update("jax_num_cpu_devices", count)


def start_distributed(coordinator: str, num_processes: int, process_id: int) -> bool:
    """Join the other processes if a flag or a cluster environment says so.

    With an explicit `coordinator` "host:port" the other two say how many there are and
    which one this is. Otherwise a SLURM job of several tasks or a TPU pod is
    recognised, and JAX finds the rest itself. Returns whether there is a group. Must
    run before any other JAX call.
    """
    if coordinator:
        if not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id {process_id} is not below --num_processes "
                f"{num_processes}: give each process its own number from 0"
            )
        jax.distributed.initialize(
            coordinator,
            num_processes=num_processes,
            process_id=process_id,
            initialization_timeout=300,
        )
        return True
    several_tasks = int(os.environ.get("SLURM_NTASKS", "1")) > 1
    tpu_pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    if several_tasks or tpu_pod:
        jax.distributed.initialize()
        return True
    return False
