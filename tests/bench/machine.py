"""What a table was measured on, and the rate that its floors go by."""

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision")
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


def matrix_product(dtype: str, side: int) -> Callable[[], object]:
    """A product of two square matrices, of 2 side^3 operations."""
    a = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    product, given = jax.jit(lambda x: x @ x), jnp.asarray(a, dtype)
    return lambda: jax.block_until_ready(product(given))


@cache
def rate(dtype: str, side: int, tries: int = 5) -> float:
    """Operations a second of the fastest of a few such products."""
    run, seconds = matrix_product(dtype, side), []
    run()
    for _ in range(tries):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


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
