"""The command line: a config file with overrides, a run directory, and who we are."""

import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.tree import plain


class Arguments(NamedTuple):
    """A checked command line; `config` is plain data: dicts, tuples, numbers,
    strings."""

    config: dict[str, Any]
    workdir: str
    coordinator: str
    num_processes: int
    process_id: int
    cpu_devices: int
    compile_cache: str


def parse(argv: Sequence[str]) -> Arguments:
    """Raises `UserError`, one line, for whatever the user mistyped."""
    recipe, variant = _check_recipe(argv)
    _import_beside(recipe)
    _check_replaced(argv)
    values = _define(argv)
    try:
        _check_keys(argv, _recipe_alone(argv))
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
        values.coordinator,
        values.num_processes,
        values.process_id,
        values.cpu_devices,
        values.compile_cache,
    )


def _define(argv: Sequence[str]):
    """The flags, in a space of their own: absl's global one is not touched."""
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "recipe", flag_values=values, sys_argv=list(argv)
    )
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    flags.DEFINE_string("coordinator", "", "host:port", flag_values=values)
    flags.DEFINE_integer("num_processes", 1, "of the group", flag_values=values)
    flags.DEFINE_integer("process_id", 0, "of this one", flag_values=values)
    flags.DEFINE_integer("cpu_devices", 0, "a CPU as so many", flag_values=values)
    flags.DEFINE_string("compile_cache", "auto", "folder, or off", flag_values=values)
    return values


def _recipe_alone(argv: Sequence[str]) -> dict[str, Any]:
    """The recipe's configuration before any override."""
    alone = [argv[0], f"--config={_given_recipe(argv)}"]
    values = _define(alone)
    values(alone)
    return plain(values["config"].value)


def _check_keys(argv: Sequence[str], config: dict[str, Any]) -> None:
    """Raises `UserError` for a --config.a.b whose key the recipe does not have."""
    for argument in argv:
        if argument.startswith("--config."):
            here: Any = config
            path = argument.removeprefix("--config.").partition("=")[0].split(".")
            for depth, key in enumerate(path):
                if not isinstance(here, dict) or key not in here:
                    where = ".".join(["config", *path[:depth]])
                    known = here if isinstance(here, dict) else ["(none)"]
                    raise unknown_name(f"key of {where}", key, known)
                here = here[key]


def _check_replaced(argv: Sequence[str]) -> None:
    """Raises `UserError` for a flag of earlier versions."""
    if any(argument.startswith("--profile_dir") for argument in argv):
        raise UserError(
            "--profile_dir is now --config.profile.num_steps=100: a trace of so many "
            "training steps in <workdir>/profile, see docs/profiling.md"
        )


def _check_recipe(argv: Sequence[str]) -> tuple[Path, str]:
    """The recipe's file and variant; what ml_collections would report as a
    traceback."""
    given = _given_recipe(argv)
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


def _given_recipe(argv: Sequence[str]) -> str:
    given = ""
    for i, argument in enumerate(argv):
        if argument == "--config" and i + 1 < len(argv):
            given = argv[i + 1]
        elif argument.startswith("--config="):
            given = argument.removeprefix("--config=")
    return given


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
