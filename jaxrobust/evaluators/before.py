"""Checks on a network before it is attacked: can its gradients be believed?

Each check is one line of the card with its figure. They need one small batch and a few
compilations, so they stand in front of every evaluation.

Ref: Carlini et al., On Evaluating Adversarial Robustness, arXiv:1902.06705; Croce and
Hein, arXiv:2003.01690 (the flags of AutoAttack); Pintor et al., Indicators of Attack
Failure, arXiv:2106.09947.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxrobust import losses, rng
from jaxrobust.errors import UserError
from jaxrobust.evaluators import lint
from jaxrobust.evaluators.check import Check
from jaxrobust.evaluators.outputs import (
    clean_accuracy_is_plausible,
    cross_entropy_is_not_saturated,
    enough_classes,
    images_are_square,
    logits_are_not_probabilities,
)
from jaxrobust.evaluators.predict import as_tree
from jaxrobust.threat import ThreatModel
from jaxrobust.types import LogitsFn

MAX_IMAGES = 64
REPEATS = 5
SINGLES = 8
COMPANY_SLACK = 1e-3
REPEAT_SLACK = 1e-4
MAX_SHARE = 0.05


def before_attack(
    logits_fn: LogitsFn,
    image: np.ndarray | Array,
    label: np.ndarray | Array,
    threat: ThreatModel,
    key: Array,
    components: Sequence[str],
) -> list[Check]:
    """All checks on the first (at most 64) images, which `check_inputs` let pass.

    `components` names the attacks that will run. A network that cannot be run, or
    whose logits are no numbers, gets that one failed check: the others would only
    repeat it.
    """
    image = jnp.asarray(image[:MAX_IMAGES], jnp.float32)
    label = jnp.asarray(label[:MAX_IMAGES], jnp.int32)
    runs = network_runs(logits_fn, image)
    if not runs.ok:
        return [runs]
    network = as_tree(logits_fn)
    logits = jnp.asarray(_forward(network, image), jnp.float32)
    steady = network_is_deterministic(network, image)
    return [
        runs,
        logits_are_not_probabilities(logits),
        steady,
        rows_do_not_depend_on_the_batch(network, image, is_random=not steady.ok),
        gradients_reach_the_image(network, image, label, threat, key),
        cross_entropy_is_not_saturated(logits, label),
        enough_classes(logits.shape[1], components),
        images_are_square(image),
        clean_accuracy_is_plausible(logits, label),
    ]


def network_runs(logits_fn: LogitsFn, image: Array) -> Check:
    """That the compiled network gives finite numbers f32[B,K], K >= 2."""
    name = "the network gives logits"
    try:
        logits = np.asarray(_forward(as_tree(logits_fn), image), np.float32)
    except UserError:
        raise
    except Exception as error:
        return Check(name, False, _one_line(error), "it must run under jax.jit")
    if logits.ndim != 2 or len(logits) != len(image) or logits.shape[1] < 2:
        note = f"expected [{len(image)}, K], one column for each of two or more classes"
        return Check(name, False, f"shape {logits.shape}", note)
    broken = float(np.mean(~np.isfinite(logits).all(1)))
    note = "an image whose logits are NaN counts as robust for a careless attack"
    return Check(name, broken == 0, f"{broken:.1%} of rows NaN or infinite", note)


def network_is_deterministic(logits_fn: LogitsFn, image: Array) -> Check:
    """That repeated calls agree, and repeated traces, too (NumPy's random numbers are
    drawn while tracing, and a compiled attack would freeze them)."""
    name, network = "the network is deterministic", as_tree(logits_fn)
    calls = [_forward(network, image) for _ in range(REPEATS)]
    change = max(_change(calls[0], again) for again in calls[1:])
    try:
        frozen = not lint.traced_alike(network, image)
    except Exception as error:
        return Check(name, False, _one_line(error), "it must trace anew at any time")
    value = f"{REPEATS} calls differ by {change:.1e} of the logits' spread"
    if frozen:
        value += ", numbers are drawn while tracing"
    random = frozen or not change <= REPEAT_SLACK
    if random:
        places = [
            str(f) for f in lint.find(network, image) if f.primitive in lint.RANDOM
        ]
        value += f" ({', '.join(places)})" if places else ""
    note = "use version rand: attack the expectation over the network's noise (EOT)"
    return Check(name, not random, value, note)


def rows_do_not_depend_on_the_batch(
    logits_fn: LogitsFn, image: Array, is_random: bool
) -> Check:
    """That an image's logits are the same in another order, in other company, in half
    the batch and alone; noise hides the answer, so `is_random` lets it pass."""
    name = "rows do not depend on the batch"
    note = "BatchNorm in training mode? Bind the running statistics"
    if is_random:
        return Check(name, True, "not measurable on a random network", note)
    try:
        change = _company_changes(as_tree(logits_fn), image)
    except Exception as error:
        return Check(name, False, _one_line(error), "it must take batches of any size")
    where, worst = max(change.items(), key=lambda item: np.nan_to_num(item[1], nan=9e9))
    value = f"at most {worst:.1e} of the logits' spread ({where})"
    return Check(name, all(v <= COMPANY_SLACK for v in change.values()), value, note)


def gradients_reach_the_image(
    logits_fn: LogitsFn, image: Array, label: Array, threat: ThreatModel, key: Array
) -> Check:
    """That no operation blocks the way back to the image (see `lint`), and that the
    gradient of the margin is neither zero nor NaN at the images and at a random start.

    Zero gradients of the cross-entropy are judged by `cross_entropy_is_not_saturated`.
    """
    name = "gradients reach the image"
    note = "blocked, hand-written or random gradients mislead every white-box attack"
    network, found, values = as_tree(logits_fn), [], []
    try:
        found = [f for f in lint.find(network, image) if f.on_path]
        start = threat.random_init(rng.per_example(key, jnp.arange(len(image))), image)
        dead = _dead_gradients(network, jnp.stack([image, start]), label)
        shares = {k: float(np.mean(np.asarray(flags))) for k, flags in dead.items()}
    except Exception as error:
        shares = {}
        values.append(f"no gradient: {_one_line(error)}")
    values += [f"{share:.1%} {kind}" for kind, share in shares.items()]
    values += [str(finding) for finding in found]
    if found:
        note = "; ".join(dict.fromkeys(finding.why for finding in found))
    alive = bool(shares) and max(shares.values()) <= MAX_SHARE
    return Check(name, alive and not found, ", ".join(values), note)


@jax.jit
def _forward(network: LogitsFn, image: Array) -> Array:
    return network(image)


@jax.jit
def _in_parts(network: LogitsFn, parts: Array) -> Array:
    """f32[P,B,H,W,C] -> f32[P,B,K], each part a batch of its own."""
    return lax.map(network, parts)


def _company_changes(network: LogitsFn, image: Array) -> dict[str, float]:
    """By how much the logits change when the company of an image does."""
    count = len(image)
    half, logits = count // 2, _forward(network, image)
    order = np.random.default_rng(0).permutation(count)
    mixed = image.at[half:].set(1.0 - image[half:])
    change = {
        "another order": _change(logits[order], _forward(network, image[order])),
        "other company": _change(logits[:half], _forward(network, mixed)[:half])
        if half
        else 0.0,
    }
    for where, size, rows in (("half", half, 2 * half), ("alone", 1, SINGLES)):
        if size and size < count:
            rows = min(rows, count)
            parts = image[:rows].reshape(-1, size, *image.shape[1:])
            apart = _in_parts(network, parts).reshape(rows, -1)
            change[where] = _change(logits[:rows], apart)
    return change


def _change(logits: Array, again: Array) -> float:
    """The largest difference over the largest distance of a logit from its row's
    mean."""
    one, other = np.asarray(logits, np.float32), np.asarray(again, np.float32)
    spread = np.max(abs(one - one.mean(1, keepdims=True)))
    return float(np.max(abs(one - other)) / max(spread, 1e-12))


@jax.jit
def _dead_gradients(network: LogitsFn, points: Array, label: Array) -> dict[str, Array]:
    """bool[B] each: the margin gradient is zero, or it or that of the cross-entropy is
    not finite, at any of the points f32[P,B,H,W,C]."""

    def at(x: Array) -> tuple[Array, Array]:
        logits, pull = jax.vjp(network, x)
        slopes = [
            jax.grad(_total(loss, label))(logits)
            for loss in (losses.margin, losses.cross_entropy)
        ]
        gradients = lax.map(lambda slope: pull(slope)[0], jnp.stack(slopes))
        zero = jnp.all(gradients[0] == 0, axis=(1, 2, 3))
        broken = jnp.any(~jnp.isfinite(gradients), axis=(0, 2, 3, 4))
        return zero, broken

    zero, broken = lax.map(at, points)
    return {
        "zero margin gradients": jnp.any(zero, axis=0),
        "NaN gradients": jnp.any(broken, axis=0),
    }


def _total(loss: Callable, label: Array) -> Callable[[Array], Array]:
    return lambda logits: jnp.sum(loss(logits, label))


def _one_line(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"[:160]
