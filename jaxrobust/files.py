"""Files that appear whole or not at all."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np


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


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with a final newline; raises ValueError on NaN or infinity."""
    text = json.dumps(value, indent=2, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")
