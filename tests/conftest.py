"""A strict harness: silent broadcasting raises, compiled programs are remembered.

The environment is set before JAX is imported, and inherited by the processes that tests
start. Tests see one CPU device; `helpers.on_devices` gives a test eight of them.
"""

import os
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".jax_cache"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402

from jaxrobust import sharding  # noqa: E402
from tests import helpers  # noqa: E402


def be_strict():
    """Shapes [B] and [B,1] must never meet by accident: that is a wrong loss."""
    jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Before any test module is imported."""
    be_strict()
    # Where one read of a checkpoint fails, Orbax abandons the others, and they
    # complain whenever they are collected.
    noise = "ignore:(?s)Exception ignored.*(orbax|event loop is closed)"
    category = "pytest.PytestUnraisableExceptionWarning"
    config.addinivalue_line("filterwarnings", f"{noise}:{category}")


LONG_RUNS = {"models", "generative", "tasks"}
"""Folders whose programs run for longer than they compile, or are timed."""


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(request):
    """Most tests run a tiny program once: compile it five times faster."""
    folder = request.path.relative_to(Path(__file__).parent).parts[0]
    if folder in LONG_RUNS:
        yield
    else:
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def mesh():
    """One device."""
    return sharding.make_mesh(1)


@pytest.fixture(scope="session")
def images():
    """An `ImageSet` of 40 separable images u8[40,4,4,1] in 3 classes."""
    return helpers.image_set(40)
