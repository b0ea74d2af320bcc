"""The smoke run that most tests of tasks look at."""

from pathlib import Path

import pytest

pytest.importorskip("ml_collections", reason="recipes are ml_collections configs")


@pytest.fixture(scope="session")
def smoke(finished) -> Path:
    """A finished run of configs/hybrid.py:smoke."""
    return finished("hybrid")
