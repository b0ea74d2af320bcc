"""One smoke run, shared by every test that only looks at what it left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ml_collections", reason="recipes are ml_collections configs")
ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> list[str]:
    """The command line of a user."""
    return [sys.executable, "-m", "jaxrobust.main", *arguments]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, with the compilation cache that tests share."""
    import jax

    cache = jax.config.jax_compilation_cache_dir or str(ROOT / ".jax_cache")
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **extra,
    }


def run_cli(*arguments: str, **extra: str) -> subprocess.CompletedProcess:
    """Run the program to its end and keep what it printed."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Path:
    """A finished run of configs/hybrid.py:smoke."""
    workdir = tmp_path_factory.mktemp("smoke") / "run"
    done = run_cli("--config=configs/hybrid.py:smoke", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    (workdir / "stdout.txt").write_text(done.stdout)
    return workdir
