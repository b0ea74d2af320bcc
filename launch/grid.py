"""The runs of a sweep: every combination of the values that keys are set to."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrobust import flags
from jaxrobust.errors import UserError


class Run(NamedTuple):
    """One point of the grid: the program's arguments and what they resolve to."""

    workdir: Path
    arguments: tuple[str, ...]
    config: dict

    @property
    def output(self) -> Path:
        """Where everything goes that the run prints."""
        return self.workdir.with_name(self.workdir.name + ".out")


def make_runs(
    common: Sequence[str], settings: Sequence[str], folder: Path
) -> list[Run]:
    """One run for each combination of `settings`, "key=value,value", which come after
    the `common` arguments. Raises `UserError` for what no run could be started with."""
    grid = dict(map(_parse_setting, settings))
    if len(grid) < len(settings):
        raise UserError("a key is --set twice: give all its values after one --set")
    labels = _short_names(list(grid))
    runs = {}
    for values in itertools.product(*grid.values()):
        overrides = [f"--config.{key}={v}" for key, v in zip(grid, values)]
        arguments = (*common, *overrides)
        parts = [f"{labels[key]}={_file_name(v)}" for key, v in zip(grid, values)]
        name = ",".join(parts) or "run"
        if name in runs:
            raise UserError(f"two runs would both be called {name}: set other values")
        config = flags.parse(["sweep", *arguments]).config
        runs[name] = Run(folder / name, arguments, config)
    return list(runs.values())


def _parse_setting(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    if not key or not equals:
        raise UserError(f"--set {text}: say --set KEY=VALUE or KEY=VALUE,VALUE")
    return key, split_values(values)


def split_values(text: str) -> list[str]:
    """The parts between the commas that no bracket and no quote encloses."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += 0 if quote else (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _short_names(keys: list[str]) -> dict[str, str]:
    """The last part of each dotted key, or the whole where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return {k: name if last.count(name) == 1 else k for k, name in zip(keys, last)}


def _file_name(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", value.strip("()[]{}'\", "))
