"""Files that appear whole or not at all."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.errors import UserError


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename: a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """np.savez; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    write_atomic(path, buffer.getvalue())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; raises `UserError` where there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): is it a run's?") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold one JSON object: is it a run's?")
    return value


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with a final newline; raises ValueError on NaN or infinity."""
    text = json.dumps(value, indent=2, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")
