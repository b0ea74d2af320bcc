"""How far apart two images look: LPIPS on a frozen network, without learnt weights.

phi(x) joins, for some layers l, the activations of unit length across channels at each
position, divided by sqrt(H_l W_l); d(x, x') = ||phi(x) - phi(x')||_2.

Ref: Laidlaw et al., Perceptual Adversarial Robustness, arXiv:2006.12655, section 3.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxrobust import data, interop, registry, sharding
from jaxrobust.attacks.fast_lagrangian import PerceptualFn
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.finished import FILES, open_run
from jaxrobust.interop import state_dict
from jaxrobust.interop.weights import from_torch_order
from jaxrobust.models import MODELS
from jaxrobust.models.alexnet import alexnet
from jaxrobust.types import PyTree

BuildModel = Callable[[Mapping[str, Any], data.ImageSet], nn.Module]
"""(spec of a model, training images) -> the network."""

KEYS = ("path", "name", "seed", "mean", "std")
ALEXNET_PLACES = ("0", "3", "6", "8", "10")
"""The convolutions among `features` of PyTorch's AlexNet."""
_ALEXNET = re.compile(r"(?:^|.*\.)features\.(\d+)\.(weight|bias)")
_BLOCK = re.compile(r"layer(\d+)_(\d+)")


def build_perceptual(spec: Mapping[str, Any], build_model: BuildModel) -> PerceptualFn:
    """phi of the frozen network that `spec` names, f32[B,H,W,C] -> f32[B,F].

    `path` is a finished run, where `name` ("" for the first row of its table) and
    `seed` choose the network, or a file of PyTorch: AlexNet, or a net that
    `interop.load_torch` knows; there `mean` and `std` are its preprocessing, () for
    what the file says. Raises `UserError` for anything else.
    """
    for key in spec:
        if key not in KEYS:
            raise unknown_name("key of a perceptual network", key, KEYS)
    missing = [key for key in KEYS if key not in spec]
    if missing:
        raise UserError(f"a perceptual network needs a value for {', '.join(missing)}")
    if not spec["path"]:
        raise UserError(
            "no perceptual network is given: set the attack's network.path to the "
            "directory of a finished run or to a file of PyTorch weights"
        )
    path = Path(spec["path"])
    if path.suffix not in FILES:
        return _of_run(spec["path"], spec["name"], spec["seed"], build_model)
    arrays = state_dict.read(path, "").arrays
    mean, std = (spec[key] or None for key in ("mean", "std"))
    if any(map(_ALEXNET.fullmatch, arrays)):
        return alexnet_features(arrays, mean, std)
    model_spec, variables = interop.load_torch(path, mean=mean, std=std)
    return block_features(registry.build("model", MODELS, model_spec), variables)


def unit_features(activations: Sequence[Array]) -> Array:
    """phi f32[B,F] out of layers [B,h,w,c]; a position without activation stays 0."""
    parts = []
    for layer in activations:
        layer = layer.astype(jnp.float32)
        square = jnp.sum(layer**2, axis=-1, keepdims=True)
        # The length of nothing has no gradient: 0 / 0 in both directions.
        length = jnp.sqrt(jnp.where(square > 0, square, 1.0))
        unit = layer / (length * np.sqrt(layer.shape[1] * layer.shape[2]))
        parts.append(unit.reshape(len(layer), -1))
    return jnp.concatenate(parts, axis=1)


def block_features(model: nn.Module, variables: PyTree) -> PerceptualFn:
    """phi of a network of `jaxrobust.models` with running statistics.

    Its layers are the last blocks of the stages of a residual network, or all blocks of
    a ConvNet after their activation and before pooling.
    """
    names = block_names(variables["params"])
    # A ConvNet's activation is no module of its own: what is seen comes before it.
    own: Any = model
    act = (lambda x: x) if _BLOCK.fullmatch(names[0]) else own.layers.act
    wanted = lambda module, method: module.name in names and method == "__call__"

    def features(image: Array) -> Array:
        _, kept = model.apply(
            variables,
            image,
            train=False,
            mutable=["intermediates"],
            capture_intermediates=wanted,
        )
        seen = kept["intermediates"]
        return unit_features([act(seen[name]["__call__"][0]) for name in names])

    return features


def block_names(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules that `block_features` looks at, from the first to the last."""
    blocks = [tuple(map(int, m.groups())) for m in map(_BLOCK.fullmatch, params) if m]
    if blocks:
        last = {stage: block for stage, block in sorted(blocks)}
        return tuple(f"layer{stage}_{block}" for stage, block in last.items())
    norms = [name for name in params if re.fullmatch(r"norm\d+", name)]
    if not norms:
        raise UserError("only a network of jaxrobust.models can compare images")
    return tuple(sorted(norms, key=lambda name: int(name.removeprefix("norm"))))


def alexnet_features(
    arrays: Mapping[str, np.ndarray],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> PerceptualFn:
    """phi of AlexNet with the tensors `features.N.weight` and `.bias` of PyTorch; the
    layers of a classifier on top are not looked at.

    Without `mean` and `std` they are the buffers of the same name. Raises `UserError`
    where there are none, and for another network.
    """
    arrays, buffers = state_dict.take_preprocessing(arrays)
    found = {
        match.groups(): from_torch_order(array)
        for name, array in arrays.items()
        if (match := _ALEXNET.fullmatch(name))
    }
    wanted = {(n, kind) for n in ALEXNET_PLACES for kind in ("weight", "bias")}
    if set(found) != wanted:
        raise UserError(
            "the file has `features` that are not those of AlexNet, convolutions at "
            f"{', '.join(ALEXNET_PLACES)}: save the state dict of another network"
        )
    if mean is None or std is None:
        if buffers is None:
            raise UserError(
                "the file of AlexNet does not say its preprocessing: give network.mean "
                "and network.std (ImageNet: (0.485, 0.456, 0.406), "
                "(0.229, 0.224, 0.225))"
            )
        mean, std = buffers
    kernels = [found[n, "weight"] for n in ALEXNET_PLACES]
    model = alexnet(mean, std, [k.shape[-1] for k in kernels], len(kernels[0]))
    params = {
        f"conv{i}": {
            "kernel": jnp.asarray(kernels[i]),
            "bias": jnp.asarray(found[n, "bias"]),
        }
        for i, n in enumerate(ALEXNET_PLACES)
    }

    def features(image: Array) -> Array:
        activations: Any = model.apply({"params": params}, image)
        return unit_features(activations)

    return features


def _of_run(path: str, name: str, seed: int, build_model: BuildModel) -> PerceptualFn:
    run = open_run(path)
    row = run.find([name or run.rows[0]["name"]], [seed])[0]
    train = data.load_splits(**run.config["data"]).train
    model = build_model({**run.model_spec(row), "dtype": "float32"}, train)
    mesh = sharding.make_mesh(0)
    found = run.variables(row, model, train.image.shape[1:], mesh)
    # Constants of a program must not be laid out over one mesh.
    return block_features(
        model, jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), found)
    )
