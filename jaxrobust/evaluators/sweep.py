"""One attack at several radii: compiled once, as eps is an argument."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import rng, sharding
from jaxrobust.attacks.machine import fooled
from jaxrobust.attacks.minimum_eps import Search
from jaxrobust.evaluators.accuracy import Accuracy
from jaxrobust.evaluators.predict import as_tree
from jaxrobust.loader import Feed, padded_rows, to_unit
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn

MakeAttack = Callable[[ThreatModel], Attack]


class Sweep:
    """`(logits_fn, feed, index, key, threat) -> Accuracy` for any eps of one norm.

    `count_outside`: whether an image counts as fooled that the attack moved out of the
    ball, as in tables that report minimum-norm attacks without a radius.
    """

    def __init__(
        self, make_attack: MakeAttack, batch_size: int, mesh: Mesh, count_outside: bool
    ):
        self.batch_size = batch_size
        program = partial(_attack_batch, make_attack, mesh, count_outside)
        self._batch = jax.jit(program)

    def __call__(
        self,
        logits_fn: LogitsFn,
        feed: Feed,
        index: np.ndarray,
        key: Array,
        threat: ThreatModel,
    ) -> Accuracy:
        """Attack every image of `feed` at positions `index` and count."""
        flags, away = _over_batches(
            self._batch, threat, logits_fn, feed, index, key, self.batch_size
        )
        return Accuracy(float(np.mean(flags)), flags, float(np.max(away)))


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
        return _over_batches(
            self._batch, threat, logits_fn, feed, index, key, self.batch_size
        )


def _over_batches(program, threat, logits_fn, feed, index, key, batch_size):
    """Two arrays [N] out of `program`, which gives them batch by batch."""
    network = as_tree(logits_fn)
    places, real = padded_rows(index, batch_size)
    found = [program(threat, network, *feed(place), place, key) for place in places]
    keep = real.reshape(-1)
    first, second = (np.concatenate([np.asarray(x) for x in xs]) for xs in zip(*found))
    return first[keep], second[keep]


def _search_batch(
    make_search, mesh, threat, logits_fn, images, labels, rows, place, key
):
    rows, place = sharding.split_batch((rows, place), mesh)
    image, label = to_unit(images[rows]), labels[rows]
    keys = rng.per_example(key, place)
    found = make_search(threat)(keys, logits_fn, image, label)
    return sharding.constrain_replicated((found.eps, found.non_monotone), mesh)


def _attack_batch(
    make_attack,
    mesh,
    count_outside,
    threat,
    logits_fn,
    images,
    labels,
    rows,
    place,
    key,
):
    rows, place = sharding.split_batch((rows, place), mesh)
    image, label = to_unit(images[rows]), labels[rows]
    attack = make_attack(threat)
    x_adv = attack(rng.per_example(key, place), logits_fn, image, label)
    away = threat.distance(x_adv, image)
    wrong = fooled(logits_fn(x_adv), label)
    if not count_outside:
        # What left the ball proves nothing about it: the clean image then counts.
        outside = away > threat.eps * (1 + 1e-6) + 1e-6
        wrong = jnp.where(outside, fooled(logits_fn(image), label), wrong)
        away = jnp.where(outside, 0.0, away)
    return sharding.constrain_replicated((~wrong, away), mesh)
