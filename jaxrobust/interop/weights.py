"""Published weights as a model of ours."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxrobust.errors import UserError
from jaxrobust.interop import state_dict
from jaxrobust.interop.layouts import EXPORTED, LAYOUTS, Layout, describe, recognise
from jaxrobust.interop.layouts import some as some_of
from jaxrobust.models import MODELS
from jaxrobust.models.convnet import ConvNet
from jaxrobust.registry import build
from jaxrobust.types import PyTree

logger = logging.getLogger(__name__)


def load_torch(
    path: Path | str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    entry: str = "",
    **options,
) -> tuple[dict[str, Any], PyTree]:
    """(spec, variables) of a .pt, .pth or .safetensors file; nothing in it is executed.

    `registry.build("model", MODELS, spec)` is the network. `entry` names one state dict
    of a checkpoint that holds several; by default it is `model_state_dict` (the
    averaged weights where there are two), else `state_dict`, `model` or `net`. The rest
    is as in `from_state_dict`. Raises `UserError` for a file that is not plain weights.
    """
    found = state_dict.read(Path(path), entry)
    return _convert(found, mean, std, options)


def from_state_dict(
    state: Mapping[str, Any],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options,
) -> tuple[dict[str, Any], PyTree]:
    """(spec, variables) of the tensors of a PyTorch net, by name.

    Known are ResNet-18 and -20, PreActResNet-18 and wide ResNets as in RobustBench:
    those of kuangliu, TRADES and DeepMind. Convolutions go from OIHW to HWIO, the last
    layer is transposed, `num_batches_tracked` and the unused `sub_block1` are dropped.

    A state dict does not tell the activation, which input a PreActResNet's shortcut
    sees, nor, mostly, the preprocessing. `mean` and `std` are those given, else buffers
    of the state dict, else 0 and 1; DeepMind's nets, which keep theirs elsewhere, need
    them given. Other keys of the spec are what the family's published nets have;
    `options` (`activation="relu"`, ...) overrule them. What was assumed is logged.

    Raises `UserError` for an unknown network and for missing, surplus or mis-shaped
    tensors.
    Deviates: running variances are taken as they are; PyTorch's are unbiased, ours not.
    """
    arrays = state_dict.to_numpy(state_dict.unwrap(state))
    return _convert(state_dict.Tensors(arrays, {}), mean, std, options)


def image_for(model: nn.Module, linear_inputs: int, channels: int) -> tuple[int, ...]:
    """A shape of images [1,H,W,C] that `model` takes, given its last layer's inputs."""
    if not isinstance(model, ConvNet) or model.head == "mean":
        return (1, 32, 32, channels)
    halvings = {"avg": 0, "stride": -1}.get(model.pool)
    scale = 1 if halvings is None else 2 ** (len(model.widths) + halvings)
    positions = linear_inputs // model.widths[-1]
    return (1, scale * positions, scale, channels)


def _convert(found: state_dict.Tensors, mean, std, options):
    bare, buffers = state_dict.take_preprocessing(found.arrays)
    arrays = state_dict.strip_prefixes(bare)
    shapes = {name: array.shape for name, array in arrays.items()}
    if found.spec:
        name, spec = EXPORTED[found.spec["name"]], dict(found.spec)
        buffers = (spec.pop("mean"), spec.pop("std"))
    else:
        name = recognise(shapes)
        spec = describe(name, shapes)
    layout = LAYOUTS[name]
    stem = "conv0" if name == "convnet" else "conv1"
    channels = shapes[layout.key((stem, "kernel"))][1]
    chosen = _preprocessing(name, mean, std, buffers, channels)
    spec |= {"mean": chosen[0], "std": chosen[1]} | options
    model = build("model", MODELS, spec)
    inputs = shapes[layout.key(("linear", "kernel"))][1]
    variables = _fill(layout, arrays, model, image_for(model, inputs, channels))
    logger.info("weights of layout %s as %s", name, spec)
    return spec, variables


def _preprocessing(name: str, mean, std, buffers, channels: int):
    """(mean, std), lists with a number for each channel."""
    if (mean is None) != (std is None):
        raise UserError("give both mean and std, or neither")
    if mean is not None:
        chosen, source = ([*map(float, mean)], [*map(float, std)]), "as given"
    elif buffers is not None:
        chosen, source = buffers, "from the file"
    elif name.endswith("deepmind"):
        raise UserError(
            "DeepMind's nets normalise by constants that are not in the state dict: "
            "give mean and std (CIFAR-10: mean=(0.4914, 0.4822, 0.4465), "
            "std=(0.2471, 0.2435, 0.2616))"
        )
    else:
        chosen, source = ([0.0] * channels, [1.0] * channels), "none in the file"
    if not len(chosen[0]) == len(chosen[1]) == channels:
        raise UserError(f"mean and std need {channels} numbers, one for each channel")
    log = logger.warning if source.startswith("none") else logger.info
    log("preprocessing %s: mean %s, std %s", source, *chosen)
    return chosen


def _fill(layout: Layout, arrays, model: nn.Module, image: tuple[int, ...]) -> PyTree:
    """Our tree of variables with the tensors in their places."""
    init = lambda: model.init(jax.random.key(0), jnp.zeros(image), train=False)
    expected = jax.eval_shape(init)
    used, missing = set(), []

    def fetch(path, leaf):
        key = layout.key(tuple(part.key for part in path[1:]))
        used.add(key)
        if key not in arrays:
            missing.append(key)
            return leaf
        value = from_torch_order(arrays[key])
        if value.shape != leaf.shape:
            wanted = to_torch_shape(leaf.shape)
            raise UserError(f"{key} has shape {arrays[key].shape}, expected {wanted}")
        return jnp.asarray(value)

    variables = jax.tree_util.tree_map_with_path(fetch, expected)
    if missing:
        raise UserError(f"the state dict lacks {some_of(missing)}")
    known = {key for key in arrays if key.startswith(layout.optional or ("\0",))}
    state_dict.check_consumed(arrays, used | known)
    return {"batch_stats": {}} | dict(variables)


def from_torch_order(array: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO, [K,D] -> [D,K], vectors as they are."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_torch_order(array: np.ndarray) -> np.ndarray:
    """HWIO -> OIHW, [D,K] -> [K,D], vectors as they are."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def to_torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`to_torch_order` of a shape."""
    return tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]
