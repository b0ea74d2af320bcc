"""A small network twice, in JAX and in PyTorch with the same weights, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust.attacks.machine import Work
from tests.helpers import image_keys

CLASSES = 5
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
"""What pyautoattack calls ours."""


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    """float64 on both sides, in modules that take it; the reference casts to float32 in
    places."""
    import torch

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(torch.float32)


def weights(shape, seed=0):
    """(kernel[3,3,C,6], matrix[H*W*6,CLASSES], bias[CLASSES]) for images of `shape`."""
    draw = np.random.default_rng(seed)
    height, width, channels = shape
    kernel = draw.normal(size=(3, 3, channels, 6))
    matrix = draw.normal(size=(height * width * 6, CLASSES)) / np.sqrt(height * width)
    return kernel, matrix, draw.normal(size=CLASSES)


def jax_net(parts):
    """x[B,H,W,C] -> logits[B,CLASSES]."""
    kernel, matrix, bias = (jnp.asarray(part) for part in parts)
    order = ("NHWC", "HWIO", "NHWC")

    def logits_fn(x):
        hidden = lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=order
        )
        return jnp.tanh(hidden).reshape(len(x), -1) @ matrix + bias[None]

    return logits_fn


def torch_net(parts, seen=None):
    """x[B,C,H,W] -> logits[B,CLASSES]; its inputs, as NHWC arrays, go to `seen`."""
    import torch

    kernel, matrix, bias = (torch.tensor(part) for part in parts)

    def logits_fn(x):
        if seen is not None:
            seen.append(to_nhwc(x))
        hidden = torch.conv2d(x, kernel.permute(3, 2, 0, 1), padding=1)
        hidden = torch.tanh(hidden).permute(0, 2, 3, 1)
        return hidden.reshape(len(x), -1) @ matrix + bias

    return logits_fn


def to_nchw(x):
    """NumPy NHWC -> torch NCHW, contiguous: the reference calls `view`."""
    import torch

    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def to_nhwc(x):
    """torch NCHW -> NumPy NHWC."""
    return np.moveaxis(x.detach().numpy().copy(), 1, -1)


def make_work(parts, shape, count, seed=1):
    """Images whose labels are what the network says, each with another class to aim
    at."""
    draw = np.random.default_rng(seed)
    image = jnp.asarray(draw.uniform(size=(count, *shape)))
    logits = jax_net(parts)(image)
    ranked = jnp.argsort(-logits, axis=1).astype(jnp.int32)
    keys = image_keys(np.arange(count))
    return Work(keys, image, ranked[:, 0], ranked[:, 1])


def all_steps(machine, work, logits_fn, state):
    """(last state, states before each step, stacked): nobody stops at a success."""

    def body(state, position):
        positions = jnp.full(len(work.image), position, jnp.int32)
        return machine.step(work, logits_fn, state, positions), state

    run = jax.jit(lambda state: lax.scan(body, state, jnp.arange(machine.num_steps)))
    return run(state)
