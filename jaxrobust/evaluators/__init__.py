"""Evaluators: they see a network as `logits_fn` and nothing else."""

from jaxrobust.evaluators.accuracy import Accuracy, AccuracyPass

__all__ = ["Accuracy", "AccuracyPass"]
