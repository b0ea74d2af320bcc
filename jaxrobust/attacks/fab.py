"""FAB: the nearest image on the other side of a linearised decision boundary."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust import losses
from jaxrobust.attacks.hyperplane import step_to_plane
from jaxrobust.attacks.machine import (
    Component,
    Machine,
    Work,
    advance,
    as_attack,
    fold_rows,
    fooled,
    ranked_others,
    where_rows,
)
from jaxrobust.errors import unknown_name
from jaxrobust.losses import of_class
from jaxrobust.threat import ThreatModel, column
from jaxrobust.types import Attack, LogitsFn

STARTS = ("image", "random")
_PAPER = (("alpha_max", 0.1), ("eta", 1.05), ("beta", 0.9))
_TINY = 1e-12
_LEAST_STEP = 1e-8


class FabState(NamedTuple):
    """`x` is where to linearise next; `x_best`, at the distance `best` f32[B], is the
    nearest point so far that fools the network (the image and inf without one)."""

    x: Array
    x_best: Array
    best: Array
    x_adv: Array
    found: Array


def fab_machine(
    threat: ThreatModel,
    num_steps: int,
    targeted: bool,
    alpha_max: float,
    eta: float,
    beta: float,
    start: str,
) -> Machine:
    """Steps to the boundary z_t = z_y, drawn to the image, and back from behind it.

    With d, d0 the least steps from x and from the image x0 to the boundary linearised
    at x, inside the box, and a = min(||d|| / (||d|| + ||d0||), alpha_max):
    x' = clip[(1 - a) (x + eta d) + a (x0 + eta d0)]; if x' fools the network it is kept
    where it is the nearest so far, and x' <- x0 + beta (x' - x0).

    The class t is `work.other`, or, untargeted, the one whose linearised boundary is
    nearest, at the price of K backward passes (`backwards` says 1). A row is found once
    `best` <= eps; with eps = 0 only misread images stop, so that `best` is the least
    distance of all steps. `start` is the image or, for restarts, a draw ("random").

    `x_best` may lie outside of the ball. Raises `UserError` for another start.

    Ref: Croce and Hein, arXiv:1907.02044, algorithm 1; class t as in arXiv:2003.01690.
    Deviates: without the final line search, as the released code; a row stops at its
    first success, at once where the image (or its random start) is misread; random
    starts are uniform in the ball of eps / 2, not on its surface.
    """
    if start not in STARTS:
        raise unknown_name("start of fab", start, STARTS)
    linearise = _to_target if targeted else _to_nearest

    def begin(work: Work) -> FabState:
        x, nothing = work.image, jnp.zeros(len(work.image), bool)
        if start == "random":
            half = replace(threat, eps=threat.eps / 2.0)
            x = half.random_init(work.keys, x)
        never = jnp.full(len(x), jnp.inf, x.dtype)
        return FabState(x, work.image, never, work.image, nothing)

    def step(work: Work, logits_fn: LogitsFn, s: FabState, position: Array):
        value, slope, logits = linearise(threat.norm, work, logits_fn, s.x)
        s = _keep(threat, s, work, s.x, (position == 0) & fooled(logits, work.label))
        x = _cross(threat, s.x, work.image, slope, value, alpha_max, eta)
        adversarial = fooled(logits_fn(x), work.label)
        s = _keep(threat, s, work, x, adversarial)
        back = work.image + beta * (x - work.image)
        return s._replace(
            x=where_rows(adversarial, back, x),
            x_adv=s.x_best,
            found=s.best <= threat.eps_of_rows(x),
        )

    return Machine(num_steps, begin, step, forwards=2, backwards=1)


def _keep(
    threat: ThreatModel, s: FabState, work: Work, x: Array, adversarial: Array
) -> FabState:
    """Remember the points x that fool the network from nearer than any before."""
    distance = threat.distance(x, work.image)
    nearer = adversarial & (distance < s.best)
    return s._replace(
        x_best=where_rows(nearer, x, s.x_best),
        best=jnp.where(nearer, distance, s.best),
    )


def _cross(
    threat: ThreatModel,
    x: Array,
    image: Array,
    slope: Array,
    value: Array,
    alpha_max: float,
    eta: float,
) -> Array:
    """A point a little behind the boundary, between those next to x and the image."""
    at_image = value + jnp.sum(slope * (image - x), (1, 2, 3))
    d, d0 = jnp.split(
        step_to_plane(
            threat.norm,
            jnp.concatenate([x, image]),
            jnp.concatenate([slope, slope]),
            jnp.concatenate([value, at_image]),
            threat.bounds,
        ),
        2,
    )
    length = lambda d: jnp.maximum(threat.distance(d, jnp.zeros_like(d)), _LEAST_STEP)
    share = length(d) / (length(d) + length(d0))
    alpha = column(jnp.minimum(share, alpha_max))
    return threat.clip((1.0 - alpha) * (x + eta * d) + alpha * (image + eta * d0))


def _to_target(norm: str, work: Work, logits_fn: LogitsFn, x: Array):
    """(z_t - z_y f32[B], its gradient, logits) at x for the target class."""

    def total(x: Array):
        logits = logits_fn(x)
        value = of_class(logits, work.other) - of_class(logits, work.label)
        return jnp.sum(value), (value, logits)

    slope, (value, logits) = jax.grad(total, has_aux=True)(x)
    return value, slope, logits


def _to_nearest(norm: str, work: Work, logits_fn: LogitsFn, x: Array):
    """The same for the class k of least |z_k - z_y| / ||its gradient||_dual.

    One class after the other, so that memory does not grow with their number.
    """
    logits, pull_back = jax.vjp(logits_fn, x)
    own = jax.nn.one_hot(work.label, logits.shape[-1], dtype=logits.dtype)

    def look(nearest, k: Array):
        other = jnp.full_like(work.label, k)
        value = of_class(logits, other) - of_class(logits, work.label)
        that = jax.nn.one_hot(other, logits.shape[-1], dtype=logits.dtype)
        (slope,) = pull_back(that - own)
        distance = jnp.abs(value) / (_dual_norm(norm, slope) + _TINY)
        distance = jnp.where(other == work.label, jnp.inf, distance)
        closer = distance < nearest[0]
        new = (distance, value, slope)
        kept = jax.tree.map(lambda n, old: where_rows(closer, n, old), new, nearest)
        return kept, None

    zero = jnp.zeros_like(logits[:, 0])
    nothing = (jnp.full_like(zero, jnp.inf), zero, jnp.zeros_like(x))
    (_, value, slope), _ = lax.scan(look, nothing, jnp.arange(logits.shape[-1]))
    return value, slope, logits


def _dual_norm(norm: str, slope: Array) -> Array:
    size = jnp.abs(slope)
    if norm == "linf":
        return jnp.sum(size, (1, 2, 3))
    if norm == "l1":
        return jnp.max(size, (1, 2, 3))
    return jnp.sqrt(jnp.sum(size**2, (1, 2, 3)))


def fab_component(
    name: str, num_steps: int, runs: int, targeted: bool, start: str = "image"
) -> Component:
    """FAB with the constants of the paper, over target classes where `targeted`.

    Restarts of the untargeted form are a component of their own, of start "random":
    from the image every run is the same.
    """
    options = (("num_steps", num_steps), ("targeted", targeted), ("start", start))
    return Component(name, fab_machine, options + _PAPER, runs, targeted)


def fab(threat: ThreatModel, num_steps: int, num_targets: int) -> Attack:
    """Targeted FAB: the first point found inside the ball over the `num_targets` most
    likely other classes; the image where there is none.

    Ref: Croce and Hein, arXiv:2003.01690 (FAB-T).
    """
    attack_all = as_attack(fab_component("fab", num_steps, num_targets, True), threat)

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        x = attack_all(keys, logits_fn, image, target)
        inside = threat.distance(x, image) <= threat.eps_of_rows(image)
        return where_rows(inside, x, image)

    return attack


def minimal_perturbation(
    norm: str, num_steps: int, num_targets: int, num_halvings: int
) -> Callable[[Array, LogitsFn, Array, Array], tuple[Array, Array]]:
    """(keys, logits_fn, image, target) -> (x f32[B,H,W,C], ||x - image|| f32[B]) of the
    nearest image that targeted FAB finds to fool the network.

    The distance bounds the true minimum from above: inf (and the image) where nothing
    was found, 0 where the image itself is misread. No eps enters, so that one run gives
    the share of images fooled at every eps. At the end the way from the image to x is
    halved `num_halvings` times (one forward each), as FAB's steps stay about 0.5%
    behind even a straight boundary; 0 is the released code.

    Ref: Croce and Hein, arXiv:1907.02044 (with its final search along the segment).
    """
    threat = ThreatModel(0.0, norm)
    machine = fab_component("fab", num_steps, num_targets, True).machine(threat)

    def search(keys: Array, logits_fn: LogitsFn, image: Array, target: Array):
        label = losses.hard(target)
        others = ranked_others(logits_fn(image), label)[:, :num_targets]

        def run(best: tuple[Array, Array], number: Array):
            work = Work(fold_rows(keys, number), image, label, others[:, number])
            s = machine.start(work)._replace(found=best[1] <= 0.0)
            position = jnp.zeros(len(image), jnp.int32)
            s, _, _ = advance(machine, logits_fn, work, s, position, num_steps, 0)
            nearer = s.best < best[1]
            x = where_rows(nearer, s.x_best, best[0])
            return (x, jnp.where(nearer, s.best, best[1])), None

        nothing = (image, jnp.full(len(image), jnp.inf, image.dtype))
        (x, best), _ = lax.scan(run, nothing, jnp.arange(others.shape[1]))
        x = _halve(logits_fn, image, label, x, num_halvings)
        best = jnp.where(best < jnp.inf, threat.distance(x, image), best)
        return lax.stop_gradient((x, best))

    return search


def _halve(logits_fn, image: Array, label: Array, x: Array, num_halvings: int) -> Array:
    """The point where the network errs next to the boundary, between x and image."""

    def halve(_, carry):
        low, high, x = carry
        middle = (low + high) / 2.0
        nearer = image + column(middle) * far
        wrong = fooled(logits_fn(nearer), label)
        low, high = jnp.where(wrong, low, middle), jnp.where(wrong, middle, high)
        return low, high, where_rows(wrong, nearer, x)

    far = x - image
    zero = jnp.zeros(len(image), image.dtype)
    return lax.fori_loop(0, num_halvings, halve, (zero, zero + 1.0, x))[2]
