"""Last-layer gradients that stay on the devices that made them, and how each device
gets the groups that it solves: one group travels at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from jaxrobust import features
from jaxrobust.features import Factors
from jaxrobust.sharding import AXIS

_LAID = PartitionSpec(None, AXIS)


class SpreadFactors(NamedTuple):
    """`Factors` of S batches, each cut over the devices (`sharding.columns`): `delta`
    f32[S,B,A,K], `embedding` f32[S,B,A,D]. Point i is in batch i // B; what fills up
    the last ones has the gradient zero."""

    delta: Array
    embedding: Array


def deal(spread: SpreadFactors, rows: Array, mesh: Mesh) -> Factors:
    """Inside jit: the points `rows` i32[G,n] of G groups, `Factors` [G,n,...] laid over
    the devices by group; G is a multiple of their number.

    A device never has more than its own groups and one that passes through.
    """
    devices = mesh.devices.size

    def own(spread: SpreadFactors, rows: Array) -> Factors:
        me, (batches, width) = jax.lax.axis_index(AXIS), spread.delta.shape[:2]
        flat = jax.tree.map(
            lambda x: jnp.reshape(x, (batches * width, *x.shape[2:])), spread
        )

        def fetch(row: Array) -> SpreadFactors:
            batch, place = jnp.divmod(row, devices * width)
            owner, place = jnp.divmod(place, width)
            at = batch * width + place

            def part(x: Array) -> Array:
                mine = jnp.reshape(owner == me, (-1,) + (1,) * (x.ndim - 1))
                return jax.lax.psum(jnp.where(mine, x[at], 0.0), AXIS)

            return jax.tree.map(part, flat)

        def turn(_, row: Array):
            """The groups of one turn, `row` i32[D,n], one for each device."""

            def pass_by(device: Array, kept: SpreadFactors) -> SpreadFactors:
                keep = lambda new, old: jnp.where(device == me, new, old)
                return jax.tree.map(keep, fetch(row[device]), kept)

            nothing = jax.eval_shape(fetch, row[0])
            empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), nothing)
            return None, jax.lax.fori_loop(0, devices, pass_by, empty)

        turns = jnp.swapaxes(jnp.reshape(rows, (devices, -1, rows.shape[1])), 0, 1)
        return Factors(*jax.lax.scan(turn, None, turns)[1])

    given = (_LAID, PartitionSpec())
    split = PartitionSpec(AXIS)
    run = jax.shard_map(
        own, mesh=mesh, in_specs=given, out_specs=split, check_vma=False
    )
    return run(spread, rows)


def relative_error(
    spread: SpreadFactors, index: Array, weight: Array, mesh: Mesh
) -> Array:
    """`features.relative_error` of points `index` i32[M] with `weight` f32[M]."""
    batches, width = spread.delta.shape[:2]
    weights = jnp.zeros(batches * width).at[index].add(weight)

    def own(spread: SpreadFactors, weights: Array) -> tuple[Array, Array]:
        flat = Factors(*(jnp.reshape(x, (-1, *x.shape[2:])) for x in spread))
        of = lambda weight: features.total(jnp.reshape(weight, -1), flat)
        return jax.lax.psum((of(weights), of(jnp.ones_like(weights))), AXIS)

    given, whole = (_LAID, _LAID), PartitionSpec()
    run = jax.shard_map(
        own, mesh=mesh, in_specs=given, out_specs=whole, check_vma=False
    )
    return features.distance(*run(spread, jnp.reshape(weights, (batches, width))))
