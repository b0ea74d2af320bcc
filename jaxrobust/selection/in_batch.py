"""Selection inside a training step: which rows are attacked, and which are learnt.

With F the forward pass of the batch, PGD-k and an update on everything cost (2k + u) F,
where u is `Objective.passes`, 3 for one loss and its gradient. Learning only from a
share p of the rows, chosen with one forward pass

    before the attack   [1 + p (2k + u)] F
    after j of k steps  [2j + p (2 (k - j) + u)] F, the losses of step j being free
    after the attack    [2k + 1 + u p] F
    clean and attacked  [2k + 2 + 2u p] F, of twice as many images
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from jaxrobust import losses, metrics, rng, sharding, tree
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.rng import StepKeys
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, Batch, LogitsFn

T = TypeVar("T")
ORDERS = ("hard", "easy", "random")
LOOKS = ("clean", "start")
ERRORS = {
    "cross_entropy": losses.cross_entropy,
    "log_sum_exp": lambda logits, target: losses.log_sum_exp_error(logits),
}


class Chosen(NamedTuple):
    """What the step goes on with, and `facts`: numbers f32[] for the log."""

    batch: Batch
    x_adv: Array
    facts: dict[str, Array]


class Craft(NamedTuple):
    """How the step attacks: `attack` is None where the objective has none, `target` as
    in `Objective`; so many `slices` of the batch one after another. `mesh`: devices
    that share the chosen rows, None leaves them to the compiler."""

    attack: Attack | None
    target: Callable[[LogitsFn, Batch], Array]
    slices: int = 1
    mesh: Mesh | None = None

    def lay_out(self, rows: T) -> T:
        """Chosen rows, shared by the devices."""
        return sharding.share_rows(rows, self.mesh)

    def __call__(self, keys: StepKeys, logits_fn: LogitsFn, batch: Batch) -> Array:
        """x_adv f32[B,H,W,C] of the whole batch."""
        attack = self.attack
        if attack is None:
            return batch.image

        def attacked(batch: Batch) -> Array:
            target = self.target(logits_fn, batch)
            row_keys = rng.per_example(keys.attack, batch.index)
            return attack(row_keys, logits_fn, batch.image, target)

        with jax.named_scope("attack"):
            if self.slices == 1:
                return attacked(batch)
            parts = tree.split_rows(batch, self.slices)
            return tree.join_rows(lax.map(attacked, parts))


Select = Callable[[StepKeys, LogitsFn, Batch, Craft], Chosen]
Split = Callable[[int], tuple[Callable, Callable]]
"""first_steps -> (begin, finish), the two parts of PGD (attacks.pgd.pgd_split)."""


def all_rows() -> Select:
    """No selection."""

    def select(keys: StepKeys, logits_fn: LogitsFn, batch: Batch, craft: Craft):
        return Chosen(batch, craft(keys, logits_fn, batch), {})

    return select


def union(keep: float, error: str, order: str, count_minimum: bool) -> Select:
    """The share `keep` of largest error out of b' clean and b' attacked images.

    `count_minimum` logs how many of the chosen attacked images are near-minimal: they
    fool the network, and half of their perturbation does not. It takes one more forward
    pass.

    Ref: data selection for adversarial training, algorithm 1: `keep` is P_up, `error`
    the error signal of equation 7, "cross_entropy". Equation 8 as printed sums over the
    classes and ranks by C log sum exp(z) - sum z alone: "log_sum_exp".
    Deviates: near-minimal images stand in for minimum adversarial examples, whose
    search would cost more than the step.
    """
    _check(keep, order)
    if error not in ERRORS:
        raise unknown_name("error of the selector", error, ERRORS)

    def select(keys: StepKeys, logits_fn: LogitsFn, batch: Batch, craft: Craft):
        x_adv, count = craft(keys, logits_fn, batch), len(batch.image)
        both = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
        both = both._replace(image=jnp.concatenate([batch.image, x_adv]))
        both = craft.lay_out(both)
        with jax.named_scope("score"):
            logits = logits_fn(both.image)
            errors = ERRORS[error](logits, both.target)
        rows = _top(errors, keep, order, keys.select)
        adversarial = rows >= count
        facts = {
            "keep": jnp.float32(len(rows) / (2 * count)),
            "chosen_clean": jnp.sum(~adversarial).astype(jnp.float32),
            "chosen_adv": jnp.sum(adversarial).astype(jnp.float32),
            "pool_acc": jnp.mean(metrics.correct(logits, both.label)),
        }
        if count_minimum:
            with jax.named_scope("score"):
                half = logits_fn((batch.image + x_adv) / 2)
            right = metrics.correct(half, batch.label) > 0
            minimal = right & (metrics.correct(logits[count:], batch.label) == 0)
            chosen = adversarial & minimal[rows % count]
            facts["chosen_minimum"] = jnp.sum(chosen).astype(jnp.float32)
        chosen = craft.lay_out(take(both, rows))
        return Chosen(chosen, chosen.image, facts)

    return select


def before_attack(threat: ThreatModel, keep: float, look: str, order: str) -> Select:
    """Attack and learn only the share `keep` of largest cross-entropy, seen on the
    "clean" images or at a random "start" in the ball."""
    _check(keep, order)
    if look not in LOOKS:
        raise unknown_name("look of the selector", look, LOOKS)

    def select(keys: StepKeys, logits_fn: LogitsFn, batch: Batch, craft: Craft):
        x = batch.image
        if look == "start":
            x = threat.random_init(rng.per_example(keys.select, batch.index), x)
        with jax.named_scope("score"):
            error = losses.cross_entropy(logits_fn(x), batch.target)
        rows = _top(error, keep, order, keys.select)
        chosen = craft.lay_out(take(batch, rows))
        return Chosen(chosen, craft(keys, logits_fn, chosen), _share(rows, batch))

    return select


def during_attack(
    split: Split | None, keep: float, first_steps: int, order: str
) -> Select:
    """Choose by the losses that the first `first_steps` steps of PGD have computed
    anyway, and go on attacking only the chosen rows.

    With `first_steps` = num_steps this selects after the attack, by the loss of its
    last look, at no cost.
    """
    _check(keep, order)
    if split is None:
        raise UserError(
            "the selector during_attack needs the attack pgd with one start and "
            "keep_best False: other attacks cannot be interrupted"
        )
    begin, finish = split(first_steps)

    def select(keys: StepKeys, logits_fn: LogitsFn, batch: Batch, craft: Craft):
        with jax.named_scope("attack"):
            target = craft.target(logits_fn, batch)
            row_keys = rng.per_example(keys.attack, batch.index)
            x, error = begin(row_keys, logits_fn, batch.image, target)
        rows = _top(error, keep, order, keys.select)
        parts = take(batch, rows), x[rows], target[rows]
        chosen, x, target = craft.lay_out(parts)
        with jax.named_scope("attack"):
            x_adv = finish(logits_fn, chosen.image, target, x)
        return Chosen(chosen, x_adv, _share(rows, batch))

    return select


def after_attack(keep: float, order: str) -> Select:
    """Attack everything, learn the share `keep` of largest cross-entropy."""
    _check(keep, order)

    def select(keys: StepKeys, logits_fn: LogitsFn, batch: Batch, craft: Craft):
        x_adv = craft(keys, logits_fn, batch)
        with jax.named_scope("score"):
            error = losses.cross_entropy(logits_fn(x_adv), batch.target)
        rows = _top(error, keep, order, keys.select)
        chosen, x_adv = craft.lay_out((take(batch, rows), x_adv[rows]))
        return Chosen(chosen, x_adv, _share(rows, batch))

    return select


SELECTORS = {
    "after_attack": after_attack,
    "all": all_rows,
    "before_attack": before_attack,
    "during_attack": during_attack,
    "union": union,
}


def passes(spec: Mapping[str, Any], attack_steps: float, update: float) -> float:
    """What a step costs in forward passes of the batch, by the formulas above; `update`
    is their u."""
    name, keep, attack = spec["name"], spec.get("keep", 1.0), 2 * attack_steps
    if name == "before_attack":
        return 1 + keep * (attack + update)
    if name == "during_attack":
        first = 2 * spec["first_steps"]
        return first + keep * (attack + update - first)
    if name == "after_attack":
        return attack + 1 + update * keep
    if name == "union":
        return attack + 2 + 2 * update * keep + bool(spec["count_minimum"])
    return attack + update


def take(batch: Batch, rows: Array) -> Batch:
    """The rows i32[k] of a batch."""
    return jax.tree.map(lambda x: x[rows], batch)


def kept_rows(keep: float, count: int) -> int:
    """How many of `count` rows a share is: rounded, at least one."""
    return max(round(keep * count), 1)


def _top(error: Array, keep: float, order: str, key: Array) -> Array:
    """Ascending positions i32[k] of the chosen rows; equal errors by position."""
    if order == "random":
        error = jax.random.uniform(key, error.shape)
    signed = -error if order == "easy" else error
    return jnp.sort(lax.top_k(signed, kept_rows(keep, len(error)))[1])


def _share(rows: Array, batch: Batch) -> dict[str, Array]:
    return {"keep": jnp.float32(len(rows) / len(batch.image))}


def _check(keep: float, order: str) -> None:
    if not 0 < keep <= 1:
        raise UserError(f"keep is a share of the batch in (0, 1], not {keep}")
    if order not in ORDERS:
        raise unknown_name("order of the selector", order, ORDERS)
