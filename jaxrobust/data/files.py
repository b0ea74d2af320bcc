"""Paths that the user wrote, and how they are named in messages and provenance."""

from pathlib import Path

from jaxrobust.errors import UserError


def need_path(source: str, path: str) -> Path:
    """`path` with ~ expanded; raises `UserError` when it is empty or not there."""
    if not path:
        raise UserError(f"data source {source!r} reads from disk: set its path")
    found = Path(path).expanduser()
    if not found.exists():
        raise UserError(f"data path {path!r} does not exist: check the spelling")
    return found


def short(path: Path) -> str:
    """The last two parts: enough to recognise, free of whose machine it was."""
    return "/".join(path.absolute().parts[-2:])


def read_names(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one a line; () where there is no such file."""
    if not path.is_file():
        return ()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{short(path)} is not a text file: {error.reason}") from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())
