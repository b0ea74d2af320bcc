"""The bridge to PyTorch: published weights in, our weights out, foreign networks as
`logits_fn`.

PyTorch and safetensors are imported where they are needed and nowhere else
(`pip install 'jaxrobust[torch]'`).
"""

from jaxrobust.interop.callables import ensemble, from_callable, from_torch
from jaxrobust.interop.export import export_torch
from jaxrobust.interop.weights import from_state_dict, load_torch

__all__ = [
    "ensemble",
    "export_torch",
    "from_callable",
    "from_state_dict",
    "from_torch",
    "load_torch",
]
