"""From a model and its arrays to functions of images."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from jaxrobust.errors import unknown_name
from jaxrobust.types import FeaturesFn, LogitsFn, PyTree, TrainState

BN_MODES = ("batch", "running")

Forward = Callable[[Array, PyTree | None], tuple[Array, PyTree]]
"""(image, batch_stats or None for the state's) -> (logits, updated batch_stats)."""


@dataclass(frozen=True)
class _Apply:
    """`model.apply` as a value: equal models give equal, once-compiled programs."""

    model: nn.Module
    bn: str

    def __call__(self, variables: PyTree, image: Array) -> Array:
        train = self.bn == "batch"
        # Updates of the statistics are collected only to be dropped.
        logits, _ = self.model.apply(
            variables, image, train=train, mutable=["batch_stats"]
        )
        return logits


def bind(model: nn.Module, variables: PyTree, bn: str) -> LogitsFn:
    """The network with frozen weights as `logits_fn`, itself a tree of arrays.

    `bn` says which BatchNorm statistics it uses: those of the "batch" at hand (the
    update of the running ones is dropped) or the "running" ones. Being a tree, it can
    be handed to a jitted function, which then serves every checkpoint of one
    architecture.
    """
    if bn not in BN_MODES:
        raise unknown_name("BatchNorm mode", bn, BN_MODES)
    return jax.tree_util.Partial(_Apply(model, bn), variables)


@dataclass(frozen=True)
class _Features:
    """As `_Apply`, for the logits and what the last layer makes them of."""

    model: nn.Module

    def __call__(self, variables: PyTree, image: Array) -> tuple[Array, Array]:
        logits, kept = self.model.apply(
            variables, image, train=False, mutable=["intermediates"]
        )
        (embedding,) = jax.tree.leaves(kept["intermediates"]["embedding"])
        return logits, embedding


def bind_features(model: nn.Module, variables: PyTree) -> FeaturesFn:
    """The network with frozen weights and running statistics as `features_fn`, a tree
    of arrays like `bind`."""
    return jax.tree_util.Partial(_Features(model), variables)


def init_variables(model: nn.Module, image_shape: tuple[int, ...], key: Array):
    """Fresh weights for images f32[*image_shape]; compile it, its ops are many."""
    example = jnp.zeros((1, *image_shape), jnp.float32)
    return model.init(key, example, train=False)


def create_state(
    variables: PyTree,
    tx: optax.GradientTransformation,
    with_ema: bool,
    select_state: PyTree | None = None,
) -> TrainState:
    """The state at step 0 of a network with these weights; `select_state` is what a
    selection inside of the step remembers."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    ema = {"params": params, "batch_stats": batch_stats} if with_ema else {}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        # A copy: a donated state must not hold one buffer twice.
        ema=jax.tree.map(jnp.copy, ema),
        select_state={} if select_state is None else select_state,
    )


def train_variables(state: TrainState) -> PyTree:
    """The weights that training moves."""
    return {"params": state.params, "batch_stats": state.batch_stats}


def eval_variables(state: TrainState) -> PyTree:
    """The weights to evaluate and to attack: averaged ones where they are kept."""
    return state.ema or train_variables(state)


def forward_fn(model: nn.Module, params: PyTree, batch_stats: PyTree) -> Forward:
    """A training-mode forward pass that returns the running statistics it would
    leave."""

    def forward(image: Array, stats: PyTree | None) -> tuple[Array, PyTree]:
        stats = batch_stats if stats is None else stats
        variables: PyTree = {"params": params, "batch_stats": stats}
        logits, updated = model.apply(
            variables,
            image,
            train=True,
            mutable=["batch_stats"],
        )
        return logits, updated.get("batch_stats", stats)

    return forward
