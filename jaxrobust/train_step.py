"""The one training step: keys -> augment -> attack -> loss -> update, and many in a
scan.

`make_train_step` is pure; `Program` puts a chunk of steps into one compiled program
with the images on the device, so an epoch never returns to the host.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from jaxrobust import memory, metrics, optim, registry, rng, sharding, tree
from jaxrobust.accumulate import make_gradient
from jaxrobust.augment import Augment
from jaxrobust.loader import take_rows, to_unit
from jaxrobust.objectives import Objective
from jaxrobust.selection import adaptive
from jaxrobust.selection.in_batch import Craft, Select, all_rows
from jaxrobust.state import bind, forward_fn, train_variables
from jaxrobust.types import Attack, Batch, PyTree, TrainState

Step = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


@dataclass(frozen=True)
class StepOptions:
    """`attack_bn` "batch" | "running": the statistics that the attacked network uses.
    `ema_decay`, `awp_gamma`: 0 turns weight averaging, weight perturbation off;
    `awp_start_step`: the first step with perturbed weights. `weight_norm` "batch" |
    "global": what a loss weight is relative to (`metrics.MEANS`).
    `adaptive_epoch_steps`: the length of an epoch where the share of selected rows
    adapts to accuracy. `accumulate`: a step takes the batch in so many slices, attack
    and gradient one slice at a time. `mesh`: devices that share the rows which a
    selector chose, None leaves them to the compiler."""

    attack_bn: str
    ema_decay: float
    awp_gamma: float
    awp_start_step: int
    weight_norm: str
    adaptive_epoch_steps: int = 0
    accumulate: int = 1
    mesh: Mesh | None = None


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    objective: Objective,
    attack: Attack,
    select: Select,
    augment: Augment,
    options: StepOptions,
) -> Step:
    """(state, batch, base_key) -> (state, metrics); nothing here depends on the
    method."""
    craft = make_craft(objective, attack, options.accumulate, options.mesh)
    mean = registry.lookup("weight_norm", metrics.MEANS, options.weight_norm)

    def step(state: TrainState, batch: Batch, base_key: Array):
        keys = rng.step_keys(base_key, state.step)
        batch = augment(keys.augment, batch)
        logits_fn = bind(model, train_variables(state), bn=options.attack_bn)
        # These scopes are the phases of `profiling`; attack and score are within.
        with jax.named_scope("select"):
            batch, x_adv, facts = select(keys, logits_fn, batch, craft)

        def outcome_fn(params: PyTree, batch: Batch, x_adv: Array):
            forward = forward_fn(model, params, state.batch_stats)
            return objective.outer(forward, batch, x_adv)

        with jax.named_scope("update"):
            slope = make_gradient(outcome_fn, mean, options.accumulate)
            weights = _perturbed(state, lambda w: slope(w, batch, x_adv), options)
            (loss, outcome), grads = slope(weights, batch, x_adv)
            state = _update(state, tx, grads, outcome.batch_stats, options.ema_decay)
        if options.adaptive_epoch_steps:
            state, facts = _adapt(state, facts, options.adaptive_epoch_steps)
        right = metrics.correct(outcome.logits, batch.label)
        return state, {
            **facts,
            "loss": loss,
            "acc": metrics.weighted_mean(right, batch.weight),
            "grad_norm": tree.norm(grads),
        }

    return step


def plain_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    objective: Objective,
    attack: Attack,
    augment: Augment,
    attack_bn: str,
) -> Step:
    """`make_train_step` for networks beside those of the run: every row is learnt, no
    weights are averaged or perturbed, a loss is relative to its batch."""
    options = StepOptions(attack_bn, 0.0, 0.0, 0, "batch")
    return make_train_step(model, tx, objective, attack, all_rows(), augment, options)


def make_craft(
    objective: Objective, attack: Attack, slices: int, mesh: Mesh | None
) -> Craft:
    """How a step of this objective attacks, so many slices of a batch in turn; `mesh`
    as in `StepOptions`."""
    wanted = attack if objective.inner is not None else None
    return Craft(wanted, objective.target, slices, mesh)


def make_program(steps: Mapping[float, Step], mesh: Mesh) -> "Program | SizedProgram":
    """The program of one step, or of a step at each of several shares."""
    if len(steps) > 1:
        return SizedProgram(steps, mesh)
    (step,) = steps.values()
    return Program(step, mesh)


class SizedProgram:
    """Programs of one step at several shares of selected rows; the share of a chunk is
    the one that the state's `p_up` has come to when the chunk begins."""

    def __init__(self, steps: Mapping[float, Step], mesh: Mesh):
        self._programs = {size: Program(step, mesh) for size, step in steps.items()}

    def __call__(self, state, *inputs):
        return self._program(state)(state, *inputs)

    def executable(self, state, *inputs) -> Any:
        """The compiled program of these inputs, or None before their first call."""
        return self._program(state).executable(state, *inputs)

    def _program(self, state: TrainState) -> "Program":
        p_up = float(state.select_state["p_up"])
        return self._programs[adaptive.static_size(p_up, tuple(self._programs))]

    @property
    def compilations(self) -> int:
        """How many programs were compiled so far."""
        return sum(program.compilations for program in self._programs.values())

    def take_compile_seconds(self) -> float:
        """Seconds of compilation since the last call of this."""
        programs = self._programs.values()
        return sum(program.take_compile_seconds() for program in programs)

    @property
    def memory_bytes(self) -> int:
        """The largest predicted peak of a device, 0 before the first call."""
        return max(program.memory_bytes for program in self._programs.values())


class Program:
    """A step inside a scan, compiled once for each chunk length.

    Called as (state, base_key, images u8, labels, rows, index, weight) it returns
    (state, metrics f32[S]): images, labels and `rows` i32[S,B] into them are those of a
    `Feed`, `index` i32[S,B] the same images' places in the pool. Batches are split over
    the mesh; the state is donated and keeps its layout, that of `sharding.replicate` or
    `spread`.
    """

    def __init__(self, step: Step, mesh: Mesh):
        self._step, self._mesh = step, mesh
        self._compiled = {}
        self._compile_seconds = 0.0
        self.memory_bytes = 0
        """The predicted peak of a device, 0 before the first call."""

    def __call__(self, state, base_key, images, labels, rows, index, weight):
        inputs = (state, base_key, images, labels, rows, index, weight)
        if self.executable(*inputs) is None:
            start = time.monotonic()
            compiled = self._compile(inputs)
            self._compiled[images.shape, rows.shape] = compiled
            self._compile_seconds += time.monotonic() - start
            self._foresee(memory.predict(compiled, state.params), rows.shape[1])
        return self.executable(*inputs)(*inputs)

    def _compile(self, inputs) -> Any:
        layout = sharding.layouts(inputs[0], self._mesh)

        def train_chunk(*inputs):  # the name that profilers show
            return _scan(self._step, self._mesh, layout, *inputs)

        return jax.jit(train_chunk, donate_argnums=0).lower(*inputs).compile()

    def _foresee(self, need: memory.Need | None, batch_size: int) -> None:
        if need and need.total > self.memory_bytes:
            self.memory_bytes = need.total
            count = self._mesh.devices.size
            memory.announce(need, batch_size, memory.limit(), count)

    def executable(self, state, base_key, images, labels, rows, index, weight) -> Any:
        """The compiled program of these inputs, or None before their first call."""
        return self._compiled.get((images.shape, rows.shape))

    @property
    def compilations(self) -> int:
        """How many programs were compiled so far."""
        return len(self._compiled)

    def take_compile_seconds(self) -> float:
        """Seconds of compilation since the last call of this."""
        seconds, self._compile_seconds = self._compile_seconds, 0.0
        return seconds


def _scan(step, mesh, layout, state, base_key, images, labels, rows, index, weight):
    def body(state: TrainState, choice):
        row, place, loss_weight = choice
        image, label = take_rows(images, labels, row, mesh)
        batch = Batch(to_unit(image), label, loss_weight, place)
        # Fetched once: an attack of K steps would fetch them 2 K + 2 times.
        params = sharding.constrain_replicated(state.params, mesh)
        state = dataclasses.replace(state, params=params)
        state, seen = step(state, sharding.split_batch(batch, mesh), base_key)
        return sharding.constrain(state, layout), seen

    state, history = jax.lax.scan(body, state, (rows, index, weight))
    history = sharding.constrain_replicated(history, mesh)
    return sharding.constrain(state, layout), history


def _adapt(state: TrainState, facts: dict[str, Array], epoch_steps: int):
    """The share to select, after this step's accuracy; logged as it was before."""
    now = state.select_state
    later = adaptive.update(now, facts["pool_acc"], epoch_steps)
    state = dataclasses.replace(state, select_state=later)
    return state, {**facts, "p_up": now["p_up"]}


def _perturbed(state: TrainState, slope: Callable, options: StepOptions) -> PyTree:
    if not options.awp_gamma:
        return state.params
    _, gradient = slope(state.params)
    gamma = jnp.where(state.step >= options.awp_start_step, options.awp_gamma, 0.0)
    return optim.perturb_weights(state.params, gradient, gamma)


def _update(
    state: TrainState,
    tx: optax.GradientTransformation,
    grads: PyTree,
    batch_stats: PyTree,
    ema_decay: float,
) -> TrainState:
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema_decay:
        now = {"params": params, "batch_stats": batch_stats}
        ema = optim.update_ema(ema, now, ema_decay, state.step)
    return dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema=ema,
    )
