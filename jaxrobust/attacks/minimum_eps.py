"""How little is enough: the smallest eps at which an attack fools, image by image."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxrobust import losses
from jaxrobust.attacks.machine import where_rows
from jaxrobust.attacks.pgd import Climb, pgd
from jaxrobust.errors import UserError
from jaxrobust.threat import ThreatModel, column
from jaxrobust.types import Attack, LogitsFn, LossFn


class MinimumEps(NamedTuple):
    """`eps` f32[B], inf where the attack never fooled; `x_adv`, which fools within
    `eps`, the clean image where nothing does; `non_monotone` i32[B], how many larger
    eps failed."""

    eps: Array
    x_adv: Array
    non_monotone: Array


Search = Callable[[Array, LogitsFn, Array, Array], MinimumEps]
"""(keys[B], logits_fn, image f32[B,H,W,C], label) -> MinimumEps."""


def minimum_eps_bisection(
    make_attack: Callable[[ThreatModel], Attack], threat: ThreatModel, num_halvings: int
) -> Search:
    """The smallest eps in [0, threat.eps] at which `make_attack(threat)` fools, from
    above and within threat.eps / 2^num_halvings if larger eps fool more.

    `make_attack` gets a threat whose eps is f32[B,1,1,1], one for each image, so its
    step sizes should be shares of `threat.eps`. The attack runs num_halvings + 1 times
    with the same keys. An image misread from the start has eps 0. `non_monotone` is 1
    where the attack failed at threat.eps and fooled below.

    Ref: the eps search of adv-lib (minimal APGD), here with static loops.
    """

    def search(keys: Array, logits_fn: LogitsFn, image: Array, label: Array):
        label = losses.hard(label)
        fooled = lambda x: losses.margin(logits_fn(x), label) > 0
        clean = fooled(image)

        def attempt(eps: Array):
            narrow = dataclasses.replace(threat, eps=column(eps))
            x = make_attack(narrow)(keys, logits_fn, image, label)
            return x, fooled(x)

        def halve(_, carry):
            low, high, x_adv, found = carry
            middle = (low + high) / 2
            x, wins = attempt(middle)
            low, high = jnp.where(wins, low, middle), jnp.where(wins, middle, high)
            return low, high, where_rows(wins, x, x_adv), found | wins

        zeros = jnp.zeros(len(image))
        widest = zeros + threat.eps_of_rows(image)
        x, at_widest = attempt(widest)
        carry = zeros, widest, where_rows(at_widest, x, image), at_widest
        _, high, x_adv, found = lax.fori_loop(0, num_halvings, halve, carry)
        eps = jnp.where(clean, 0.0, jnp.where(found, high, jnp.inf))
        surprise = found & ~at_widest & ~clean
        x_adv = where_rows(clean, image, x_adv)
        return lax.stop_gradient(MinimumEps(eps, x_adv, surprise.astype(jnp.int32)))

    return search


def minimum_eps_grid(
    make_climb: Callable[[ThreatModel], Climb],
    threat: ThreatModel,
    first_ratio: float,
    num_points: int,
) -> Search:
    """The first eps of a geometric grid, from first_ratio * threat.eps to threat.eps,
    at which `make_climb(threat)` fools, each climb starting where the last one ended.

    `non_monotone` counts the grid points that failed after one that fooled. Keys are
    not used.

    Raises `UserError` unless there are two points or more.
    """
    if num_points < 2:
        raise UserError("minimum_eps_grid needs num_points >= 2")

    def search(keys: Array, logits_fn: LogitsFn, image: Array, label: Array):
        label = losses.hard(label)
        clean = losses.margin(logits_fn(image), label) > 0

        def point(carry, eps):
            x, least, x_adv, count = carry
            wider = dataclasses.replace(threat, eps=eps)
            x, margin = make_climb(wider)(logits_fn, image, label, x)
            wins, found = margin > 0, least < jnp.inf
            x_adv = where_rows(wins & ~found, x, x_adv)
            count = count + (found & ~wins).astype(jnp.int32)
            return (x, jnp.where(wins & ~found, eps, least), x_adv, count), None

        least = jnp.where(clean, 0.0, jnp.inf)
        start = image, least, image, jnp.zeros(len(image), jnp.int32)
        grid = threat.eps * jnp.geomspace(first_ratio, 1.0, num_points)
        (_, *found), _ = lax.scan(point, start, grid)
        return lax.stop_gradient(MinimumEps(*found))

    return search


def minimum_eps(
    threat: ThreatModel,
    loss: LossFn,
    step_ratio: float,
    num_steps: int,
    start: str,
    num_restarts: int,
    num_halvings: int,
) -> Attack:
    """The image at the smallest eps within threat.eps at which PGD fools, to within
    threat.eps / 2^num_halvings; the clean image where it never does.

    PGD keeps its best iterate and steps by `step_ratio` times the eps that it is tried
    at.
    """

    def make_attack(narrow: ThreatModel) -> Attack:
        step_size = step_ratio * narrow.eps
        return pgd(narrow, loss, step_size, num_steps, start, num_restarts, True)

    search = minimum_eps_bisection(make_attack, threat, num_halvings)

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        return search(keys, logits_fn, image, target).x_adv

    return attack
