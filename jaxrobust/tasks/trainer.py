"""Train, evaluate and score networks of one run, compiling each program once."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxrobust import optim, rng, sharding
from jaxrobust.loader import Feed, Pool, to_unit
from jaxrobust.progress import Progress
from jaxrobust.samplers import FixedSampler, Sampler
from jaxrobust.selection import Frozen, adaptive
from jaxrobust.state import (
    bind,
    bind_features,
    create_state,
    eval_variables,
    init_variables,
)
from jaxrobust.tasks.fit import Fitted, Stage, fit
from jaxrobust.tasks.flops import classifier_flops
from jaxrobust.tasks.probe import make_probe, warn_if_overfitted
from jaxrobust.tasks.setup import Method, Setup, build_augment
from jaxrobust.tasks.tracing import Tracer
from jaxrobust.train_step import (
    Program,
    SizedProgram,
    StepOptions,
    make_craft,
    make_program,
    make_train_step,
)
from jaxrobust.types import Batch, LogitsFn, PyTree, Subset, TrainState
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
        self._tracer = Tracer(self.workdir, **self.setup.config["profile"])
        self._init = jax.jit(
            partial(init_variables, self.setup.model, self.setup.splits.image_shape)
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
            async_checkpoint=train["async_checkpoint"],
            probe_every_steps=probe,
            keep=train["keep"],
            work_per_step=train["batch_size"] * method.gradients,
        )

    def train(
        self, name: str, method: Method, subset: Subset, seed: int, num_steps: int
    ) -> Fitted:
        """Train `method` from scratch on `subset`; continues the stage where it
        stood."""
        batch_size = self.setup.config["train"]["batch_size"]
        sampler = FixedSampler(subset, seed, batch_size)
        size = len(subset.index)
        return self.train_on(name, method, sampler, size, seed, num_steps)

    def train_on(
        self,
        name: str,
        method: Method,
        sampler: Sampler,
        epoch_images: int,
        seed: int,
        num_steps: int,
    ) -> Fitted:
        """The same on whatever `sampler` hands out, `epoch_images` to an epoch."""
        epoch = max(epoch_images // self.setup.config["train"]["batch_size"], 1)
        optimiser = optim.make_optimiser(self.setup.config["optim"], num_steps)
        fitted = fit(
            self.stage(name, method, num_steps),
            self._program(method, num_steps, epoch),
            self.fresh_state(optimiser, seed, method),
            sharding.replicate_key(rng.purpose_key(seed, "train"), self.setup.mesh),
            self.feed,
            sampler,
            self.workdir,
            self.progress,
            partial(self._watch, method),
            self._tracer,
        )
        self._tracer.report(lambda: self._step_flops(method))
        return fitted

    def _step_flops(self, method: Method) -> float:
        """Of a whole batch; 0, unknown, where the share of its rows changes."""
        size = self.setup.config["train"]["batch_size"]
        known = not method.selection.adaptive
        return self.forward_flops * method.gradients * size if known else 0.0

    def _watch(self, method: Method, state: TrainState) -> dict[str, float]:
        found = self.probe(state)
        if method.objective.inner is not None:
            warn_if_overfitted(found)
        return found

    def fresh_state(
        self, tx: optax.GradientTransformation, seed: int, method: Method
    ) -> TrainState:
        """The initial state of `seed`, laid out over the mesh."""
        setup, train = self.setup, self.setup.config["train"]
        key = sharding.replicate_key(rng.purpose_key(seed, "init"), setup.mesh)
        variables = self._init(key)
        with_ema = train["ema_decay"] > 0
        memory = adaptive.init() if method.selection.adaptive else None
        state = create_state(variables, tx, with_ema, memory)
        lay = sharding.spread if train["shard_params"] else sharding.replicate
        return lay(state, setup.mesh)

    def variables(self, state: TrainState) -> PyTree:
        """The weights to evaluate and to attack, with a copy on every device."""
        return sharding.whole(eval_variables(state), self.setup.mesh)

    def logits_fn(self, state: TrainState) -> LogitsFn:
        """The trained network as evaluators see it: frozen, averaged where averages
        are."""
        return bind(self.setup.model, self.variables(state), bn="running")

    def frozen(self, state: TrainState) -> Frozen:
        """The same as scores see it."""
        model, variables = self.setup.model, self.variables(state)
        logits_fn = bind(model, variables, bn="running")
        return Frozen(logits_fn, bind_features(model, variables))

    def evaluate(self, state: TrainState, feed: Feed | None = None) -> dict[str, float]:
        """`<name>_acc` on the whole test set, or on all images of `feed`, for every
        evaluation, and the largest perturbation that any of them used."""
        feed = feed or self.test_feed
        index = np.arange(len(feed.pool))
        key = sharding.replicate_key(rng.purpose_key(0, "eval"), self.setup.mesh)
        row, distances = {}, []
        for name, evaluation in self.setup.evaluations.items():
            found = evaluation(
                self.logits_fn(state), feed, index, key, self.setup.threat
            )
            row[f"{name}_acc"] = found.value
            distances.append(found.distance)
        # Not Python's max: that loses a NaN.
        return {**row, "max_distance": float(np.max(distances))}

    @cached_property
    def forward_flops(self) -> float:
        """Floating point operations of one image's forward pass."""
        return classifier_flops(self.setup)

    def attack_seconds(self, method: Method, state: TrainState, steps: int) -> float:
        """What `steps` training attacks take, with the selection around them, from the
        fastest of a few, timed now.

        Timed anew after each training: a busy machine should slow both alike.
        """
        if method.objective.inner is None:
            return 0.0
        size = self.setup.config["train"]["batch_size"]
        index = np.arange(size, dtype=np.int32) % len(self.pool)
        image = to_unit(jnp.asarray(self.pool.gather(index)))
        label = jnp.asarray(self.pool.label[index])
        batch = Batch(image, label, jnp.ones(size), jnp.asarray(index))
        variables = self.variables(state)
        logits_fn = bind(self.setup.model, variables, bn=method.attack_bn)
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
            # Of an adaptive method any size: all of its rows are attacked.
            select = next(iter(method.selection.selects.values()))
            slices = self.setup.config["train"]["accumulate"]
            attack = (method.objective, method.attack)
            craft = make_craft(*attack, slices, self.setup.mesh)

            @jax.jit
            def run(logits_fn: LogitsFn, batch: Batch) -> Array:
                keys = rng.step_keys(jax.random.key(0), 0)
                return select(keys, logits_fn, batch, craft).x_adv

            self._attacks[method.name] = run
        return self._attacks[method.name]

    def _program(
        self, method: Method, num_steps: int, epoch_steps: int
    ) -> Program | SizedProgram:
        """The compiled step of `method`; one serves runs of any length, but for weight
        perturbation and adaptive selection, which begin and end at steps of their own.
        """
        adapts = epoch_steps * method.selection.adaptive
        awp_start = round(num_steps * method.awp_start_percent / 100)
        key = (method.name, adapts, awp_start * (method.awp_gamma > 0))
        if key not in self._programs:
            setup, train = self.setup, self.setup.config["train"]
            options = StepOptions(
                attack_bn=method.attack_bn,
                ema_decay=train["ema_decay"],
                awp_gamma=method.awp_gamma,
                awp_start_step=awp_start,
                weight_norm=train["weight_norm"],
                adaptive_epoch_steps=adapts,
                accumulate=train["accumulate"],
                mesh=setup.mesh,
            )
            steps = {
                size: make_train_step(
                    setup.model,
                    optim.make_optimiser(setup.config["optim"], num_steps),
                    method.objective,
                    method.attack,
                    select,
                    build_augment(
                        setup.config["augment"],
                        setup.splits.num_classes,
                        self.pool.num_original,
                    ),
                    options,
                )
                for size, select in method.selection.selects.items()
            }
            self._programs[key] = make_program(steps, setup.mesh)
        return self._programs[key]


def resolve_steps(train: Mapping[str, Any], size: int) -> int:
    """`num_steps`, or as many as `num_epochs` passes over `size` images need."""
    if train["num_steps"]:
        return train["num_steps"]
    return train["num_epochs"] * max(size // train["batch_size"], 1)
