"""Which generated images are worth keeping, by what labelers make of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from jaxrobust.errors import UserError


class Opinion(NamedTuple):
    """What a labeler sees: its probabilities f32[N,K]."""

    probability: np.ndarray

    @property
    def label(self) -> np.ndarray:
        """The likeliest class, i32[N]."""
        return self.probability.argmax(1).astype(np.int32)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of that class, f32[N]."""
        return self.probability.max(1)

    def of(self, label: np.ndarray) -> np.ndarray:
        """The probability of other labels i32[N], f32[N]."""
        return np.take_along_axis(self.probability, label[:, None], axis=1)[:, 0]


def opinion(logits: np.ndarray) -> Opinion:
    """softmax of f32[N,K]."""
    return Opinion(softmax(logits, axis=1))


Filter = Callable[[np.ndarray, tuple[Opinion, ...]], np.ndarray]
"""(labels in use i32[N], opinions) -> which to keep, bool[N]."""


def everything() -> Filter:
    """Nothing is thrown away."""
    return lambda label, opinions: np.ones(len(label), bool)


def two_labelers(threshold: float) -> Filter:
    """Away with an image whose two labelers differ and are both unsure, i.e. below
    `threshold`.

    Ref: Sehwag et al., arXiv:2104.09425, the filtering of synthetic images (0.9).
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"the filter's threshold {threshold:g} is not in 0..1")

    def keep(label: np.ndarray, opinions: tuple[Opinion, ...]) -> np.ndarray:
        if len(opinions) != 2:
            raise UserError(
                f"the filter two_labelers needs two labelers, not {len(opinions)}"
            )
        first, second = opinions
        sure = np.maximum(first.confidence, second.confidence) >= threshold
        return (first.label == second.label) | sure

    return keep


def confidence(keep_ratio: float) -> Filter:
    """Of each class the share whose label the first labeler finds likeliest.

    Ref: Wang et al., Better Diffusion Models, arXiv:2302.04638: 20% of 5M images.
    """
    if not 0 < keep_ratio <= 1:
        raise UserError(f"the filter's keep_ratio {keep_ratio:g} is not in (0, 1]")

    def keep(label: np.ndarray, opinions: tuple[Opinion, ...]) -> np.ndarray:
        if not opinions:
            raise UserError("the filter confidence needs a labeler")
        kept, likely = np.zeros(len(label), bool), opinions[0].of(label)
        for k in np.unique(label):
            mine = np.flatnonzero(label == k)
            best = mine[np.argsort(-likely[mine], kind="stable")]
            kept[best[: round(keep_ratio * len(mine))]] = True
        return kept

    return keep


FILTERS = {
    "none": everything,
    "two_labelers": two_labelers,
    "confidence": confidence,
}
