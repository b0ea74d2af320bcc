"""Evaluators: they see a network as `logits_fn` and nothing else."""

from jaxrobust.evaluators.before import before_attack
from jaxrobust.evaluators.check import Check, check_inputs
from jaxrobust.evaluators.passes import Accuracy, AccuracyPass
from jaxrobust.evaluators.protocol import AutoAttackResult, autoattack

__all__ = [
    "Accuracy",
    "AccuracyPass",
    "AutoAttackResult",
    "Check",
    "autoattack",
    "before_attack",
    "check_inputs",
]
