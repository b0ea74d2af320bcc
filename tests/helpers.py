"""Small things with known answers: networks, images and processes with more devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxrobust import rng
from jaxrobust.data.image_set import ImageSet
from jaxrobust.types import Batch

ROOT = Path(__file__).parent.parent
CLASSES = 3
SHAPE = (4, 4, 1)


def linear_logits(weight, bias=0.0):
    """logits = flatten(x) @ weight[H*W*C,K] + bias: every attack has a closed form."""
    return lambda x: jnp.reshape(x, (len(x), -1)) @ weight + bias


def random_images(count, seed=0, shape=SHAPE, low=0.0, high=1.0):
    """f32[count,*shape] uniform in [low, high]."""
    draw = np.random.default_rng(seed).uniform(low, high, (count, *shape))
    return draw.astype(np.float32)


def random_weight(seed=0, classes=CLASSES, shape=SHAPE):
    """f32[H*W*C,K] normal weights."""
    size = (int(np.prod(shape)), classes)
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def image_keys(index, seed=7):
    """The keys that evaluation gives to the images `index`."""
    return rng.per_example(jax.random.key(seed), jnp.asarray(index))


def image_set(count, seed=0, classes=CLASSES):
    """u8 images whose class is the bright row of pixels, with some noise."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, classes, count).astype(np.int32)
    label[:classes] = np.arange(classes)
    image = draw.integers(0, 60, (count, *SHAPE))
    image[np.arange(count), label] += 150
    names = tuple(f"class{k}" for k in range(classes))
    return ImageSet(image.astype(np.uint8), label, names, "made by tests")


def make_batch(count=6, seed=0, **replaced):
    """A `Batch` of separable images with weight one."""
    images = image_set(count, seed)
    batch = Batch(
        image=jnp.asarray(images.image, jnp.float32) / 255.0,
        label=jnp.asarray(images.label),
        weight=jnp.ones(count),
        index=jnp.arange(count, dtype=jnp.int32),
    )
    return batch._replace(**replaced)


class TinyNet(nn.Module):
    """One hidden layer, with BatchNorm or without; compiles in a blink."""

    norm: bool = False
    hidden: int = 8

    @nn.compact
    def __call__(self, image, train):
        """f32[B,H,W,C] -> f32[B,3]."""
        x = nn.Dense(self.hidden)(jnp.reshape(image, (len(image), -1)))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.tanh(x)
        if not self.is_initializing():
            self.sow("intermediates", "embedding", x)
        return nn.Dense(CLASSES)(x)


def variables_of(model, seed=0, shape=SHAPE):
    """{"params", "batch_stats"} drawn by NumPy, so that nothing is compiled."""
    draw = np.random.default_rng(seed)
    example = jnp.zeros((1, *shape))
    init = lambda: model.init(jax.random.key(0), example, train=False)
    fill = lambda x: jnp.asarray(draw.uniform(0.1, 0.9, x.shape) - 0.4, x.dtype)
    drawn = jax.tree.map(fill, jax.eval_shape(init))
    stats = jax.tree.map(lambda x: jnp.abs(x) + 0.1, drawn.get("batch_stats", {}))
    return {"params": drawn["params"], "batch_stats": stats}


def assert_trees_equal(ours, theirs):
    """Bit for bit, structure included."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def assert_trees_close(ours, theirs, rtol=1e-5, atol=1e-6):
    """Leaf by leaf, within the tolerances."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def count_dots(function, *args):
    """Matrix products that `function` executes, loop bodies times their trips."""
    return _count_dots(jax.make_jaxpr(function)(*args).jaxpr)


def _count_dots(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        assert equation.primitive.name != "while", "trip count is unknown"
        trips = equation.params.get("length", 1)
        inner = [_count_dots(sub) for sub in _inner_jaxprs(equation.params)]
        total += trips * sum(inner) + (equation.primitive.name == "dot_general")
    return total


def _inner_jaxprs(params):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item


def on_devices(count, function):
    """What `function()` returns, as JSON, in a fresh process with `count` CPU devices.

    `function` is a top-level function of a test module.
    """
    return _result(_start(count, function, ""))


def on_processes(count, devices, function):
    """What `function()` returns in each of `count` processes that form one group, with
    so many CPU devices each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    join = "from jaxrobust import sharding; sharding.start_distributed"
    group = [
        _start(devices, function, f"{join}('{address}', {count}, {number}); ")
        for number in range(count)
    ]
    try:
        return [_result(process) for process in group]
    finally:
        for process in group:
            process.kill()


def _start(devices, function, before):
    code = (
        f"{before}import json; "
        f"from {function.__module__} import {function.__name__} as f; "
        "print('RESULT', json.dumps(f()), flush=True)"
    )
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _result(process):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    line = next(x for x in out.splitlines() if x.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))
