"""Experts: networks trained on real images, their parameters kept after every epoch.

Parameters of one network are one vector f32[P], those of one expert a file of its own,
so that a run goes on where it was stopped and matching reads two rows of one file.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jaxrobust import rng
from jaxrobust.distill.images import epoch_rows
from jaxrobust.distill.outer import NetworkStep
from jaxrobust.distill.trajectory import Segment, check_no_statistics
from jaxrobust.errors import UserError
from jaxrobust.files import write_atomic
from jaxrobust.loader import to_unit
from jaxrobust.types import Batch, TrainState

Expert = Callable[[Array, Array, Array], Array]
"""(key, image u8[N,H,W,C], label i32[N]) -> parameters f32[epochs+1,P]."""


def make_expert(
    fresh: Callable[[Array], TrainState],
    train: NetworkStep,
    epochs: int,
    batch_size: int,
) -> Expert:
    """The parameters at the start and after each epoch of training `fresh(key)` on real
    images, in one program; nothing else of the training is kept.

    `train` has any objective: with a curvature penalty (GUARD) the trajectory leads to
    flat losses and matching needs no change. Published: 50 epochs of SGD at rate 0.01
    without momentum and decay, batches of 256, DSA.

    Raises `UserError` for a network with BatchNorm. Ref: Cazenavette et al.,
    arXiv:2203.11932, section 3.2. Deviates: images that are left over, as `epoch_rows`
    says, wait for the next epoch; a regularised expert is in no published code.
    """

    def expert(key: Array, image: Array, label: Array) -> Array:
        to_init, to_order, to_train = jax.random.split(key, 3)
        start = fresh(to_init)
        check_no_statistics(start.batch_stats)

        def one(network: TrainState, row: Array):
            weight = jnp.ones(row.shape)
            batch = Batch(to_unit(image[row]), label[row], weight, row)
            return train(network, batch, to_train)[0], None

        def epoch(network: TrainState, epoch_key: Array):
            rows = epoch_rows(epoch_key, len(label), batch_size)
            network, _ = lax.scan(one, network, rows)
            return network, flat(network)

        _, after = lax.scan(epoch, start, jax.random.split(to_order, epochs))
        return jnp.concatenate([flat(start)[None], after])

    return expert


def flat(network: TrainState) -> Array:
    """The parameters as f32[P], in the order of `trajectory.flat_network`."""
    return ravel_pytree(network.params)[0]


def expert_path(directory: Path, number: int) -> Path:
    """Where an expert is kept; the file is whole or not there."""
    return directory / f"expert_{number:04d}.npy"


def write_expert(path: Path, params: Array) -> None:
    """f32[epochs+1,P] as one .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(params, np.float32))
    write_atomic(path, buffer.getvalue())


def open_experts(
    paths: Sequence[Path], num_params: int, expert_epochs: int, max_start: int
) -> list[np.ndarray]:
    """The experts f32[epochs+1,P], mapped and not read.

    Raises `UserError` where a file cannot be read, is of a network of another size, or
    ends before the last segment: `expert_epochs` long, from an epoch below `max_start`.
    """
    return [_open(path, num_params, expert_epochs + max_start) for path in paths]


def draw_segment(
    experts: Sequence[np.ndarray],
    expert_epochs: int,
    max_start: int,
    seed: int,
    step: int,
) -> Segment:
    """A uniformly drawn expert from a uniformly drawn epoch in 0..max_start-1, to
    `expert_epochs` later; a function of (seed, step)."""
    (drawn,) = rng.host_draw(seed, step, len(experts) * max_start, 1)
    number, epoch = divmod(int(drawn), max_start)
    params = experts[number]
    start, goal = params[epoch], params[epoch + expert_epochs]
    return Segment(jnp.asarray(start), jnp.asarray(goal))


def _open(path: Path, num_params: int, snapshots: int) -> np.ndarray:
    try:
        params = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it") from error
    if params.ndim != 2 or params.shape[1] != num_params:
        raise UserError(
            f"{path} is of another network: it has shape {params.shape}, this one "
            f"{num_params} parameters; remove it or use the network that it is of"
        )
    if len(params) < snapshots:
        raise UserError(
            f"{path} has {len(params) - 1} epochs, segments reach epoch "
            f"{snapshots - 1}: train experts longer, or lower max_start"
        )
    return params
