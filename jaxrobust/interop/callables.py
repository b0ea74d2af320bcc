"""Networks that live outside JAX, and sets of networks, as `logits_fn`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.interop.state_dict import require
from jaxrobust.types import LogitsFn

LAYOUTS = ("NHWC", "NCHW")
MEANS = ("probabilities", "logits")


def from_callable(
    function: Callable[[Any], Any], num_classes: int, layout: str
) -> LogitsFn:
    """`function(images) -> logits` on the host as a `logits_fn` without a gradient.

    `function` gets f32[B,H,W,C] or, with layout "NCHW", f32[B,C,H,W], as a NumPy array
    (a tensor if it is an `nn.Module` of PyTorch), and returns [B,num_classes] of
    whatever `np.asarray` reads. It must treat rows independently and give equal answers
    to equal images. For black-box attacks; a gradient raises `UserError`.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(function, torch.nn.Module):
        _refuse_training(function)
        ask = _TorchNet(function, layout, num_classes).logits
    else:
        ask = _Host(function, layout, num_classes)

    def no_gradient(image: Array, g: Array):
        raise UserError(
            "a network from from_callable has no gradient: use a black-box attack, "
            "or from_torch for a module of PyTorch"
        )

    return _bridge(ask, num_classes, no_gradient)


def from_torch(
    module: Any, num_classes: int, layout: str = "NCHW", allow_training: bool = False
) -> LogitsFn:
    """A PyTorch `nn.Module` as a `logits_fn` whose gradient is autograd's.

    The module takes f32[B,C,H,W] in [0,1] (or [B,H,W,C] with layout "NHWC") on its own
    device and returns [B,num_classes]. A gradient costs a forward pass more than in
    PyTorch, and a second derivative is refused by JAX.

    Raises `UserError` if the module is in train mode (dropout and the statistics of the
    batch would make each row depend on its neighbours), unless `allow_training`.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    if not isinstance(module, require("torch").nn.Module):
        raise UserError(f"from_torch wants an nn.Module, not {type(module).__name__}")
    if not allow_training:
        _refuse_training(module)
    net = _TorchNet(module, layout, num_classes)

    def backward(image: Array, g: Array) -> tuple[Array]:
        return (_call(net.gradient, image.shape, image, g),)

    return _bridge(net.logits, num_classes, backward)


def ensemble(
    logits_fns: Sequence[LogitsFn], weights: Sequence[float], mean: str
) -> LogitsFn:
    """Several networks as one: the weighted mean of what they say.

        "probabilities"   log sum_m w_m softmax(logits_m)
        "logits"          sum_m w_m logits_m

    Weights are divided by their sum. Raises `UserError` for weights that are negative,
    all zero or not one for each network.
    """
    if mean not in MEANS:
        raise unknown_name("mean of an ensemble", mean, MEANS)
    share = np.asarray(weights, np.float32)
    if not logits_fns or share.shape != (len(logits_fns),):
        raise UserError(f"{len(logits_fns)} networks need as many weights")
    if not (np.all(share >= 0) and 0 < share.sum() < np.inf):
        raise UserError(f"weights of an ensemble must be >= 0, not all 0: {weights}")
    members = [f if isinstance(f, Partial) else Partial(f) for f in logits_fns]
    return Partial(_MEAN[mean], members, jnp.asarray(share / share.sum()))


def _mean_probabilities(members, share: Array, image: Array) -> Array:
    says = jnp.stack([jax.nn.log_softmax(member(image)) for member in members])
    return jax.nn.logsumexp(says, axis=0, b=share[:, None, None])


def _mean_logits(members, share: Array, image: Array) -> Array:
    return jnp.einsum("m,mbk->bk", share, jnp.stack([f(image) for f in members]))


_MEAN = {"probabilities": _mean_probabilities, "logits": _mean_logits}


def _bridge(ask: Callable, num_classes: int, backward: Callable) -> LogitsFn:
    """`ask(images) -> logits` on the host, with `backward(images, g)` as gradient."""

    @jax.custom_vjp
    def logits_fn(image: Array) -> Array:
        return _call(ask, (len(image), num_classes), image)

    logits_fn.defvjp(lambda image: (logits_fn(image), image), backward)
    return Partial(logits_fn)


def _call(function, shape: tuple[int, ...], *arrays: Array) -> Array:
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.pure_callback(function, result, *arrays, vmap_method="sequential")


def _refuse_training(module: Any) -> None:
    if any(part.training for part in module.modules()):
        raise UserError("the module is in train mode: call module.eval() first")


def _checked(logits: np.ndarray, count: int, num_classes: int) -> np.ndarray:
    if logits.shape != (count, num_classes):
        raise UserError(
            f"the network returned {logits.shape} for {count} images, expected "
            f"({count}, {num_classes})"
        )
    return np.asarray(logits, np.float32)


@dataclass(frozen=True)
class _Host:
    """A function over NumPy arrays."""

    function: Callable
    layout: str
    num_classes: int

    def __call__(self, image) -> np.ndarray:
        image = np.asarray(image, np.float32)
        given = image if self.layout == "NHWC" else image.transpose(0, 3, 1, 2)
        answer = np.asarray(self.function(np.ascontiguousarray(given)))
        return _checked(answer, len(image), self.num_classes)


@dataclass(frozen=True)
class _TorchNet:
    """A module and the trips of arrays to its device and back."""

    module: Any
    layout: str
    num_classes: int

    def logits(self, image) -> np.ndarray:
        """f32[B,H,W,C] -> f32[B,K]."""
        with require("torch").no_grad():
            answer = self.module(self._tensor(image))
        return _checked(answer.float().cpu().numpy(), len(image), self.num_classes)

    def gradient(self, image, g) -> np.ndarray:
        """sum_bk g_bk d logits_bk / d image, f32[B,H,W,C]."""
        torch = require("torch")
        with torch.enable_grad():
            x = self._tensor(image).requires_grad_()
            logits = self.module(x)
            upstream = torch.from_numpy(np.array(g)).to(logits)
            (slope,) = torch.autograd.grad(logits, x, upstream)
        if self.layout == "NCHW":
            slope = slope.permute(0, 2, 3, 1)
        return np.ascontiguousarray(slope.float().cpu().numpy())

    def _tensor(self, image):
        """A copy of the image on the module's device, in its layout."""
        torch = require("torch")
        tensor = torch.from_numpy(np.array(image, np.float32))
        if self.layout == "NCHW":
            tensor = tensor.permute(0, 3, 1, 2).contiguous()
        first = next(self.module.parameters(), None)
        return tensor if first is None else tensor.to(first.device)
