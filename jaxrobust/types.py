"""The types that carry everything; the rest of the package is functions over them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax import struct
from jax import Array

PyTree = Any
LogitsFn = Callable[[Array], Array]
"""f32[B,H,W,C] pixels in [0,1] -> f32[B,K] logits: all that attacks and evaluators
see."""

FeaturesFn = Callable[[Array], tuple[Array, Array]]
"""The same -> (logits, embedding f32[B,D]), the input of the last layer: what
last-layer gradients are made of."""

LossFn = Callable[[Array, Array], Array]
"""(logits f32[B,K], target i32[B] or f32[B,K]) -> f32[B], never reduced."""

Attack = Callable[[Array, LogitsFn, Array, Array], Array]
"""(keys[B], logits_fn, image f32[B,H,W,C], target) -> x_adv f32[B,H,W,C]."""


class Batch(NamedTuple):
    """What a step consumes.

    `image` f32[B,H,W,C] in [0,1]; `label` i32[B]; `weight` f32[B], a loss weight;
    `index` i32[B], the position in the pool; `soft_label` f32[B,K] where mixing or
    smoothing made the label a distribution.
    """

    image: Array
    label: Array
    weight: Array
    index: Array
    soft_label: Array | None = None

    @property
    def target(self) -> Array:
        """The distribution where there is one, else the integer label."""
        return self.label if self.soft_label is None else self.soft_label


class Subset(NamedTuple):
    """A choice out of a pool: `index` int64[M] (sorted, unique) and `weight` f32[M]."""

    index: np.ndarray
    weight: np.ndarray

    @classmethod
    def uniform(cls, index: np.ndarray) -> "Subset":
        """Every chosen image with weight one."""
        index = np.sort(np.asarray(index, np.int64))
        return cls(index, np.ones(len(index), np.float32))


@struct.dataclass
class TrainState:
    """Arrays only: all that a checkpoint must hold to go on bit for bit."""

    step: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema: PyTree
    """{"params", "batch_stats"} averaged, or {} when averaging is off."""
    select_state: PyTree
