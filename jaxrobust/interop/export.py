"""Our weights as a PyTorch network that needs nothing of ours."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxrobust.errors import UserError
from jaxrobust.files import write_atomic
from jaxrobust.interop.layouts import EXPORTED, LAYOUTS
from jaxrobust.interop.state_dict import METADATA, require
from jaxrobust.interop.weights import to_torch_order
from jaxrobust.models import MODELS
from jaxrobust.models.convnet import ConvNet
from jaxrobust.models.preact_resnet import PreActResNet
from jaxrobust.models.resnet import ResNet
from jaxrobust.registry import build
from jaxrobust.types import PyTree

WEIGHTS, NETWORK = "weights.safetensors", "network.py"


def export_torch(
    model: nn.Module,
    variables: PyTree,
    folder: Path | str,
    class_names: Sequence[str] = (),
) -> Path:
    """Write `network.py` and `weights.safetensors` into `folder`, which is returned.

    `network.load()` is an `nn.Module` in eval mode from images f32[B,C,H,W] in [0,1] to
    logits f32[B,K], with `class_names` as an attribute; it imports torch and
    safetensors only. Tensors have the names of RobustBench's nets, so with mean 0 and
    std 1 they also load into those. `load_torch` reads the file back exactly.

    `variables` are {"params", "batch_stats"}. Raises `UserError` for a model that no
    factory of `jaxrobust.models` makes and for a wrong number of class names.
    """
    spec = spec_of(model)
    if class_names and len(class_names) != spec["num_classes"]:
        raise UserError(
            f"{len(class_names)} class names for {spec['num_classes']} classes"
        )
    save = require("safetensors.numpy").save
    about = {"model": spec, "class_names": list(class_names)}
    data = save(_tensors(spec, variables), {METADATA: json.dumps(about)})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, data)
    source = files("jaxrobust.interop").joinpath("network.py.txt").read_bytes()
    write_atomic(folder / NETWORK, source)
    return folder


def spec_of(model: nn.Module) -> dict[str, Any]:
    """The spec that `registry.build("model", MODELS, spec)` turns into `model`, but for
    `dtype` and `conv`, which say how it is computed.

    Raises `UserError` where there is none.
    """
    spec = _options(model)
    if spec:
        layers = model.layers  # pyright: ignore[reportAttributeAccessIssue]
        spec |= {"activation": layers.activation, "norm": layers.norm}
        for key in ("num_classes", "mean", "std"):
            value = getattr(model, key)
            spec[key] = list(value) if isinstance(value, tuple) else value
        computed = {"dtype": layers.dtype, "conv": layers.conv}
        if build("model", MODELS, spec | computed) == model:
            return spec
    raise UserError("only networks made by jaxrobust.models can be exported")


def _options(model: nn.Module) -> dict[str, Any]:
    """The options that only the model's own factory has."""
    if isinstance(model, ConvNet):
        widths = list(model.widths)
        own = {"widths": widths, "pool": model.pool, "head": model.head}
        return {"name": "convnet"} | own
    if isinstance(model, ResNet):
        name = "resnet18" if len(model.stages) == 4 else "resnet20"
        momentum = model.layers.momentum
        return {"name": name, "width": model.width, "momentum": momentum}
    if not isinstance(model, PreActResNet):
        return {}
    own = {"momentum": model.layers.momentum, "padding": model.layers.padding}
    if len(model.widths) == 3:
        depth, width = 6 * model.blocks + 4, model.widths[0] // 16
        return {"name": "wide_resnet", "depth": depth, "width": width} | own
    return own | {
        "name": "preact_resnet18",
        "width": model.stem,
        "shortcut": model.shortcut,
        "shortcut_input": "raw" if model.raw_shortcut else "activated",
        "last_norm": model.last_norm,
    }


def _tensors(spec: dict[str, Any], variables: PyTree) -> dict[str, np.ndarray]:
    """PyTorch's names and layout of all arrays, counters of batches included."""
    layout = LAYOUTS[EXPORTED[spec["name"]]]
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        key = layout.key(tuple(part.key for part in path[1:]))
        value = to_torch_order(np.asarray(leaf, np.float32))
        tensors[key] = np.ascontiguousarray(value)
        if key.endswith("running_mean"):
            counter = key.replace("running_mean", "num_batches_tracked")
            tensors[counter] = np.zeros((), np.int64)
    return tensors
