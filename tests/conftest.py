"""A strict harness: silent broadcasting raises, compiled programs are remembered.

The environment is set before JAX is imported, and inherited by the processes that tests
start. Tests see one CPU device; `helpers.on_devices` gives a test eight of them.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".jax_cache"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Importing all of it takes longer to compile than to run, in dozens of processes.
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(CACHE / "bytecode"))
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import jax  # noqa: E402
import pytest  # noqa: E402

from jaxrobust import sharding  # noqa: E402
from tests import helpers, runs  # noqa: E402


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Workers begin with one half of the tests each and then take from one another.

    xdist's own default hands out ever smaller pieces: near the end most modules would
    be on every worker, and what they prepare would be made once for each.
    """
    from xdist.scheduler import WorkStealingScheduling

    if config.getoption("dist") == "load":
        return WorkStealingScheduling(config, log)
    return None


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
def finished(tmp_path_factory) -> Callable[..., Path]:
    """`finished(recipe, *options)`: the directory of a finished run, not to be changed.

    xdist gives every worker a folder of its own; what is below their parent is shared.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return partial(runs.finish_once, folder / "finished")


@pytest.fixture(scope="session")
def images():
    """An `ImageSet` of 40 separable images u8[40,4,4,1] in 3 classes."""
    return helpers.image_set(40)
