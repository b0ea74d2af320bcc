"""Passes over a whole set: accuracy under an attack, and the smallest eps that fools.

Each is compiled once for all networks of an architecture and all radii: weights and eps
are arguments of its program.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import metrics, rng, sharding
from jaxrobust.attacks.minimum_eps import Search
from jaxrobust.evaluators.predict import as_tree
from jaxrobust.loader import Feed, padded_rows, take_rows, to_unit
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn

MakeAttack = Callable[[ThreatModel], Attack]


class Accuracy(NamedTuple):
    """`value` in [0,1]; `flags` bool[N], right on each image; and the proof of the
    attack: the largest `distance` it went, in the threat's norm and unit."""

    value: float
    flags: np.ndarray
    distance: float


class AccuracyPass:
    """`(logits_fn, feed, index, key, threat) -> Accuracy` for any eps of one norm.

    The last batch is padded and the padding left out of the count. Attacks are keyed by
    image index: flags do not change with batch size, order or neighbours. Where
    `count_outside` is False, an image that the attack moved out of the ball proves
    nothing and the clean image is read instead; its distance still shows.
    """

    def __init__(
        self,
        make_attack: MakeAttack,
        batch_size: int,
        mesh: Mesh,
        count_outside: bool = True,
    ):
        self.batch_size = batch_size
        self._batch = jax.jit(partial(_attack_batch, make_attack, mesh, count_outside))

    def __call__(
        self,
        logits_fn: LogitsFn,
        feed: Feed,
        index: np.ndarray,
        key: Array,
        threat: ThreatModel,
    ) -> Accuracy:
        """Attack every image of `feed` at positions `index` and count."""
        program = partial(self._batch, threat)
        flags, distance = over_batches(
            program, logits_fn, feed, index, key, self.batch_size
        )
        # Not Python's max: that loses a NaN.
        return Accuracy(float(np.mean(flags)), flags, float(np.max(distance)))


class MinimumEpsPass:
    """`(logits_fn, feed, index, key, threat) -> (eps f32[N], non-monotone i32[N])`."""

    def __init__(
        self, make_search: Callable[[ThreatModel], Search], batch_size: int, mesh: Mesh
    ):
        self.batch_size = batch_size
        self._batch = jax.jit(partial(_search_batch, make_search, mesh))

    def __call__(
        self,
        logits_fn: LogitsFn,
        feed: Feed,
        index: np.ndarray,
        key: Array,
        threat: ThreatModel,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The smallest eps up to threat.eps for every image, inf where there is none,
        and how often a larger eps failed."""
        program = partial(self._batch, threat)
        eps, non_monotone = over_batches(
            program, logits_fn, feed, index, key, self.batch_size
        )
        return eps, non_monotone


def over_batches(
    program: Callable[..., tuple[Array, ...]],
    logits_fn: LogitsFn,
    feed: Feed,
    index: np.ndarray,
    key: Array,
    batch_size: int,
) -> list[np.ndarray]:
    """Arrays [N] out of `program(network, images, labels, rows, place, key)`, which
    gives them [B] for the images at `place`; padding of the last batch is left out."""
    network = as_tree(logits_fn)
    places, real = padded_rows(index, batch_size)
    found = [program(network, *feed(place), place, key) for place in places]
    whole = (np.concatenate([np.asarray(x) for x in xs]) for xs in zip(*found))
    return [values[real.reshape(-1)] for values in whole]


def _attack_batch(make_attack, mesh, count_outside, threat, logits_fn, *batch):
    keys, image, label = load_batch(mesh, *batch)
    x_adv = make_attack(threat)(keys, logits_fn, image, label)
    right = metrics.correct(logits_fn(x_adv), label) > 0
    if not count_outside:
        clean = metrics.correct(logits_fn(image), label) > 0
        right = jnp.where(threat.contains(x_adv, image), right, clean)
    found = right, threat.distance(x_adv, image)
    return sharding.constrain_replicated(found, mesh)


def _search_batch(make_search, mesh, threat, logits_fn, *batch):
    keys, image, label = load_batch(mesh, *batch)
    found = make_search(threat)(keys, logits_fn, image, label)
    return sharding.constrain_replicated((found.eps, found.non_monotone), mesh)


def load_batch(mesh, images, labels, rows, place, key):
    """(keys[B], image f32[B,H,W,C], label i32[B]) of one batch, split over devices."""
    rows, place = sharding.split_batch((rows, place), mesh)
    image, label = take_rows(images, labels, rows, mesh)
    return rng.per_example(key, place), to_unit(image), label
