"""Objectives: what the attack maximises, what training minimises, against which target.

Single-step training (N-FGSM, FGSM-RS) is `pgd_at` with another attack.
"""

from jaxrobust.objectives.base import Objective, Outcome
from jaxrobust.objectives.curvature import curvature, gradient_norm
from jaxrobust.objectives.mart import mart
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.objectives.stability import stability
from jaxrobust.objectives.standard import standard
from jaxrobust.objectives.trades import trades

OBJECTIVES = {
    "curvature": curvature,
    "gradient_norm": gradient_norm,
    "mart": mart,
    "pgd_at": pgd_at,
    "stability": stability,
    "standard": standard,
    "trades": trades,
}

__all__ = ["OBJECTIVES", "Objective", "Outcome"]
