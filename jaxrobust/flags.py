"""The command line: a config file with overrides, a run directory, and who we are."""

import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrobust.errors import UserError, unknown_name


class Arguments(NamedTuple):
    """A checked command line; `config` is plain data: dicts, tuples, numbers,
    strings."""

    config: dict[str, Any]
    workdir: str
    profile_dir: str
    coordinator: str
    num_processes: int
    process_id: int


def parse(argv: Sequence[str]) -> Arguments:
    """Raises `UserError`, one line, for whatever the user mistyped."""
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "recipe", flag_values=values)
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    flags.DEFINE_string("profile_dir", "", "profiler trace", flag_values=values)
    flags.DEFINE_string("coordinator", "", "host:port", flag_values=values)
    flags.DEFINE_integer("num_processes", 1, "of the group", flag_values=values)
    flags.DEFINE_integer("process_id", 0, "of this one", flag_values=values)
    recipe, variant = _check_recipe(argv)
    _import_beside(recipe)
    try:
        rest = values(list(argv))
        config = values["config"].value
    except UserError:
        raise
    except Exception as error:
        raise _one_line(error) from error
    if len(rest) > 1:
        raise UserError(
            f"unexpected argument {rest[1]!r}: options look like --name=value"
        )
    workdir = values.workdir or _default_workdir(recipe, variant)
    return Arguments(
        plain(config),
        workdir,
        values.profile_dir,
        values.coordinator,
        values.num_processes,
        values.process_id,
    )


def plain(value: Any) -> Any:
    """Config trees as dicts and tuples."""
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value


def _check_recipe(argv: Sequence[str]) -> tuple[Path, str]:
    """The recipe's file and variant; what ml_collections would report as a
    traceback."""
    given = ""
    for i, argument in enumerate(argv):
        if argument == "--config" and i + 1 < len(argv):
            given = argv[i + 1]
        elif argument.startswith("--config="):
            given = argument.removeprefix("--config=")
    if not given:
        raise UserError(
            "no recipe: say --config=configs/hybrid.py (or another file of configs/)"
        )
    name, _, variant = given.partition(":")
    path = Path(name)
    if not path.is_file():
        known = [str(p) for p in sorted(Path("configs").glob("[!_]*.py"))]
        if not known:
            raise UserError(
                f"no recipe {name!r}: there is no configs/ here; run from the folder "
                "that holds it or give the whole path"
            )
        raise unknown_name("recipe", name, known)
    return path, variant


def _import_beside(recipe: Path) -> None:
    """Let recipes import their neighbours as `configs.<name>` from any directory."""
    root = str(recipe.resolve().parent.parent)
    if importlib.util.find_spec("configs") is None or root not in sys.path:
        sys.path.insert(0, root)


def _default_workdir(recipe: Path, variant: str) -> str:
    name = f"{recipe.stem}-{variant}" if variant else recipe.stem
    return str(Path("runs") / re.sub(r"[^\w.-]+", "-", name))


def _one_line(error: Exception) -> UserError:
    """The innermost useful sentence of a chain of config errors."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
        if isinstance(error, UserError):
            return error
    text = " ".join(str(error).split())
    return UserError(text.strip("'\" ") or type(error).__name__)
