"""Train, evaluate and score networks of one run, compiling each program once."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxrobust import optim, rng, sharding
from jaxrobust.loader import Feed, Pool, to_unit
from jaxrobust.progress import Progress
from jaxrobust.selection import adaptive
from jaxrobust.state import bind, create_state, eval_variables, init_variables
from jaxrobust.tasks.fit import Fitted, Stage, fit
from jaxrobust.tasks.probe import make_probe, warn_if_overfitted
from jaxrobust.tasks.setup import Method, Setup, build_augment
from jaxrobust.train_step import Program, SizedProgram, StepOptions, make_train_step
from jaxrobust.types import Batch, LogitsFn, Subset, TrainState
from jaxrobust.workdir import Workdir

TIMED_ATTACKS = 5


@dataclass
class Trainer:
    """All that the stages of a run share: the pool, compiled programs and the clock."""

    setup: Setup
    pool: Pool
    workdir: Workdir
    progress: Progress
    _programs: dict = field(default_factory=dict)
    _attacks: dict = field(default_factory=dict)

    def __post_init__(self):
        device_gb = self.setup.config["train"]["device_gb"]
        mesh = self.setup.mesh
        self.feed = Feed(self.pool, mesh, device_gb)
        splits = self.setup.splits
        self.test_feed = Feed(Pool((splits.test,)), mesh, device_gb)
        self._init = jax.jit(
            partial(init_variables, self.setup.model, self.setup.image_shape)
        )
        held_out = len(splits.val) > 0
        watched = Feed(Pool((splits.val,)), mesh, device_gb) if held_out else self.feed
        self.probe = make_probe(self.setup, watched, "val" if held_out else "train")

    def stage(self, name: str, method: Method, num_steps: int) -> Stage:
        """The plan of one training run of `method`.

        Single-step training is probed at its end even where nothing asks for it.
        """
        train = self.setup.config["train"]
        probe = train["probe_every_steps"] or (num_steps if method.single_step else 0)
        return Stage(
            name=name,
            num_steps=num_steps,
            batch_size=train["batch_size"],
            chunk_steps=train["chunk_steps"],
            checkpoint_every_steps=train["checkpoint_every_steps"],
            probe_every_steps=probe,
            keep=train["keep"],
            work_per_step=train["batch_size"] * method.gradients,
        )

    def train(
        self, name: str, method: Method, subset: Subset, seed: int, num_steps: int
    ) -> Fitted:
        """Train `method` from scratch on `subset`; continues the stage where it
        stood."""
        epoch = max(len(subset.index) // self.setup.config["train"]["batch_size"], 1)
        program, tx = self._program(method, num_steps, epoch)
        return fit(
            self.stage(name, method, num_steps),
            program,
            self.fresh_state(tx, seed, method),
            sharding.replicate_key(rng.purpose_key(seed, "train"), self.setup.mesh),
            self.feed,
            subset,
            seed,
            self.workdir,
            self.progress,
            partial(self._watch, method),
        )

    def _watch(self, method: Method, state: TrainState) -> dict[str, float]:
        found = self.probe(state)
        if method.objective.inner is not None:
            warn_if_overfitted(found)
        return found

    def fresh_state(
        self, tx: optax.GradientTransformation, seed: int, method: Method
    ) -> TrainState:
        """The initial state of `seed`, laid out over the mesh."""
        setup = self.setup
        key = sharding.replicate_key(rng.purpose_key(seed, "init"), setup.mesh)
        variables = self._init(key)
        with_ema = setup.config["train"]["ema_decay"] > 0
        memory = adaptive.init() if method.selection.adaptive else None
        state = create_state(variables, tx, with_ema, memory)
        return sharding.replicate(state, setup.mesh)

    def logits_fn(self, state: TrainState) -> LogitsFn:
        """The trained network as evaluators see it: frozen, averaged where averages
        are."""
        return bind(self.setup.model, eval_variables(state), bn="running")

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """`<name>_acc` on the whole test set for every evaluation, and the largest
        perturbation that any of them used."""
        index = np.arange(len(self.setup.splits.test))
        key = sharding.replicate_key(rng.purpose_key(0, "eval"), self.setup.mesh)
        row, farthest = {}, 0.0
        for name, evaluation in self.setup.evaluations.items():
            found = evaluation(self.logits_fn(state), self.test_feed, index, key)
            row[f"{name}_acc"] = found.value
            farthest = max(farthest, found.distance)
        return {**row, "max_distance": farthest}

    def attack_seconds(self, method: Method, state: TrainState, steps: int) -> float:
        """What `steps` training attacks take, from the fastest of a few, timed now.

        Timed anew after each training: a busy machine should slow both alike.
        """
        if method.objective.inner is None:
            return 0.0
        size = self.setup.config["train"]["batch_size"]
        index = np.arange(size, dtype=np.int32) % len(self.pool)
        image = to_unit(jnp.asarray(self.pool.gather(index)))
        label = jnp.asarray(self.pool.label[index])
        batch = Batch(image, label, jnp.ones(size), jnp.asarray(index))
        logits_fn = bind(self.setup.model, eval_variables(state), bn=method.attack_bn)
        run = self._timed_attack(method)
        jax.block_until_ready(run(logits_fn, batch))
        seconds = []
        for _ in range(TIMED_ATTACKS):
            start = time.monotonic()
            jax.block_until_ready(run(logits_fn, batch))
            seconds.append(time.monotonic() - start)
        return steps * min(seconds)

    def _timed_attack(self, method: Method):
        if method.name not in self._attacks:

            @jax.jit
            def run(logits_fn: LogitsFn, batch: Batch) -> Array:
                keys = rng.per_example(jax.random.key(0), batch.index)
                target = method.objective.target(logits_fn, batch)
                return method.attack(keys, logits_fn, batch.image, target)

            self._attacks[method.name] = run
        return self._attacks[method.name]

    def _program(self, method: Method, num_steps: int, epoch_steps: int):
        """The compiled step of `method` over a schedule of `num_steps`, and its
        optimiser."""
        selection = method.selection
        key = (method.name, num_steps, epoch_steps * selection.adaptive)
        if key not in self._programs:
            setup, train = self.setup, self.setup.config["train"]
            tx = optim.make_optimiser(setup.config["optim"], num_steps)
            augment = build_augment(
                setup.config["augment"], setup.num_classes, self.pool.num_original
            )
            options = StepOptions(
                attack_bn=method.attack_bn,
                ema_decay=train["ema_decay"],
                awp_gamma=method.awp_gamma,
                awp_start_step=round(num_steps * method.awp_start_percent / 100),
                adaptive_epoch_steps=epoch_steps * selection.adaptive,
            )
            steps = {
                size: make_train_step(
                    setup.model, tx, method.objective, method.attack, select, augment,
                    options,
                )
                for size, select in selection.selects.items()
            }  # fmt: skip
            if selection.adaptive:
                self._programs[key] = SizedProgram(steps, setup.mesh), tx
            else:
                (step,) = steps.values()
                self._programs[key] = Program(step, setup.mesh), tx
        return self._programs[key]


def resolve_steps(train: Mapping[str, Any], size: int) -> int:
    """`num_steps`, or as many as `num_epochs` passes over `size` images need."""
    if train["num_steps"]:
        return train["num_steps"]
    return train["num_epochs"] * max(size // train["batch_size"], 1)
