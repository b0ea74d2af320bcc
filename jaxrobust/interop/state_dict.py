"""From a file of PyTorch to plain tensors: wrappers, prefixes, preprocessing."""

import importlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.errors import UserError
from jaxrobust.interop.layouts import some

METADATA = "jaxrobust"
"""Under this name a safetensors file of ours carries its model spec."""

WRAPPERS = ("model_state_dict", "state_dict", "model", "net")
"""Entries that hold the weights, in order: where a checkpoint holds averaged ones too,
`model_state_dict` is the averaged and `unaveraged_model_state_dict` the other."""

PREFIXES = {"module", "model", "net", "network", "backbone", "_orig_mod", "0", "1"}
SCALES = {"mean": "std", "mu": "sigma"}


class Tensors(NamedTuple):
    """Tensors by name, and `spec`, what a file of ours says about its model ({} for
    others)."""

    arrays: dict[str, np.ndarray]
    spec: dict[str, Any]


def require(module: str) -> Any:
    """Import an optional package, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        raise UserError(f"{root} is missing: pip install 'jaxrobust[torch]'") from error


def read(path: Path, entry: str) -> Tensors:
    """All tensors of a .pt, .pth or .safetensors file; `entry` chooses one state dict
    of several ("" for the first of `WRAPPERS`)."""
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    torch = require("torch")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as plain weights: save model.state_dict() with "
            f"torch.save ({str(error).splitlines()[0][:80]})"
        ) from error
    return Tensors(to_numpy(unwrap(found, entry)), {})


def unwrap(found: Any, entry: str = "") -> Mapping[str, Any]:
    """The state dict within a checkpoint."""
    if not isinstance(found, Mapping):
        raise UserError(f"the file holds a {type(found).__name__}, not a state dict")
    nested = [name for name in found if isinstance(found[name], Mapping)]
    if entry:
        if entry not in nested:
            choice = ", ".join(map(str, nested)) or "none"
            raise UserError(f"no state dict {entry!r} in the checkpoint, only {choice}")
        return found[entry]
    inner = next((name for name in WRAPPERS if name in nested), None)
    if inner is not None:
        return found[inner]
    if nested and len(nested) == len(found):
        raise UserError(f"choose entry= one of {', '.join(map(str, nested))}")
    return found


def to_numpy(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors of PyTorch or NumPy as f32; counters of batches are left out."""
    arrays = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if hasattr(value, "detach"):
            value = value.detach().cpu().float().numpy()
        if not hasattr(value, "shape"):
            raise UserError(f"{name} of the state dict is not a tensor: choose entry=")
        arrays[name] = np.asarray(value, np.float32)
    if not arrays:
        raise UserError("the state dict holds no tensors")
    return arrays


def strip_prefixes(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without names of wrapping modules (`module.`, `model.`, ...) that all share."""
    names = list(arrays)
    while True:
        heads = {name.partition(".")[0] for name in names}
        if len(heads) != 1 or not heads <= PREFIXES:
            return dict(zip(names, arrays.values()))
        names = [name.partition(".")[2] for name in names]


def take_preprocessing(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[list[float], list[float]] | None]:
    """The tensors without buffers `mean` and `std` (or `mu` and `sigma`), and these."""
    for name in arrays:
        parent, dot, last = name.rpartition(".")
        other = f"{parent}{dot}{SCALES.get(last, '')}"
        if last in SCALES and other in arrays:
            left = {key: arrays[key] for key in arrays if key not in (name, other)}
            pair = (arrays[name], arrays[other])
            mean, std = (value.reshape(-1).tolist() for value in pair)
            return left, (mean, std)
    return dict(arrays), None


def _read_safetensors(path: Path) -> Tensors:
    library = require("safetensors")
    try:
        with library.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (library.SafetensorError, OSError, TypeError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error
    spec = json.loads(metadata.get(METADATA, "{}")).get("model", {})
    return Tensors(to_numpy(arrays), spec)


def check_consumed(arrays: Mapping[str, np.ndarray], used: set[str]) -> None:
    """No tensor may be left over: it would be a layer that is silently dropped."""
    extra = [name for name in arrays if name not in used]
    if extra:
        raise UserError(f"the network has no place for {some(extra)}")
