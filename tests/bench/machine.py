"""What a table was measured on, and the product that its floors go by."""

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrobust import sharding

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "pyautoattack")
PACKAGES += ("apricot-select", "submodlib-py")
REPEATS = 4
GPU_FACTS = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw"


def facts() -> dict[str, object]:
    """Device, versions, clocks, load and date."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "load": os.getloadavg(),
        "gpu": _said("nvidia-smi", f"--query-gpu={GPU_FACTS}", "--format=csv,noheader"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _said("git", "rev-parse", "--short", "HEAD"),
    }


def matrix_product(dtype: str, side: int) -> tuple[Callable[[], object], int]:
    """(a few products of two square matrices on every device, their operations)."""
    mesh, split = sharding.make_mesh(0), PartitionSpec(sharding.AXIS)
    count = mesh.devices.size
    a = np.random.default_rng(0).normal(size=(count, side, side)).astype(np.float32)
    given = jax.device_put(jnp.asarray(a, dtype), NamedSharding(mesh, split))
    own = lambda x: (x[0] @ x[0])[None]
    product = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=split, out_specs=split))

    def run():
        for _ in range(REPEATS):
            out = product(given)
        return jax.block_until_ready(out)

    return run, REPEATS * 2 * count * side**3


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        return platform.processor()
    known = {key.strip(): value.strip() for key, value in lines.items()}
    return f"{known.get('model name', '?')}, {known.get('cpu MHz', '?')} MHz now"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _said(*command: str) -> str:
    """What a program prints, "" where there is none."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
