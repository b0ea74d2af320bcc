"""Finished run directories, opened again: their configuration, rows and weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from jaxrobust import optim, sharding
from jaxrobust.checkpoint import Checkpointer
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.files import read_json
from jaxrobust.selection import adaptive
from jaxrobust.state import create_state, eval_variables, init_variables
from jaxrobust.tree import plain
from jaxrobust.types import PyTree, TrainState
from jaxrobust.workdir import stage_folder

FILES = (".pt", ".pth", ".safetensors")
"""What the weights of a network outside of a run are kept in."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run directory: its configuration and the rows of its table."""

    path: Path
    config: dict[str, Any]
    rows: tuple[dict[str, Any], ...]

    def find(self, names: Sequence[str], seeds: Sequence[int]) -> list[dict]:
        """The rows called `names` (all for none) of these seeds."""
        known = list(dict.fromkeys(row["name"] for row in self.rows))
        for name in names:
            if name not in known:
                raise unknown_name(f"network of {self.path}", name, known)
        # A row that is another one under a second name is evaluated once.
        own = [row["name"] for row in self.rows if "same_as" not in row]
        wanted = names or own
        found = [r for r in self.rows if r["name"] in wanted and r["seed"] in seeds]
        if not found:
            have = sorted({row["seed"] for row in self.rows})
            raise UserError(f"{self.path} has no seed of {seeds}: its seeds are {have}")
        return found

    def model_spec(self, row: dict) -> dict[str, Any]:
        """The configuration of the network behind `row`: that of the run, or the one of
        `distill.transfer` that the row calls its architecture."""
        name = row.get("architecture")
        if name:
            return dict(self.config["distill"]["transfer"][name])
        return dict(self.config["model"])

    def variables(
        self, row: dict, model: nn.Module, image_shape: Sequence[int], mesh: Mesh
    ) -> PyTree:
        """The weights behind `row`, averaged where averages are."""
        stage = stage_folder(row.get("same_as", row["name"]), row["seed"])
        folder = self.path / "checkpoints" / stage
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist: the run is unfinished or its checkpoints "
                "were removed; run it again with the same command"
            )
        train = self.config["train"]
        # A recipe of its own is a block of the configuration, without averages.
        recipe = row.get("recipe")
        own = self.config[recipe] if recipe else self.config
        with_ema = train["ema_decay"] > 0 and not recipe
        tx = optim.make_optimiser(own["optim"], total_steps=1)
        # The networks of a comparison are called by their choice, which never adapts.
        method = self.config["methods"].get(row["name"].partition(" / ")[0], {})
        memory = adaptive.init() if method.get("select", {}).get("sizes") else None

        def fresh(key: jax.Array) -> PyTree:
            variables = init_variables(model, tuple(image_shape), key)
            return create_state(variables, tx, with_ema, memory)

        laid_out = partial(_laid_out, sharding.replicated(mesh))
        like = jax.tree.map(laid_out, jax.eval_shape(fresh, jax.random.key(0)))
        best = train["keep"] == "best_val" and not recipe
        return eval_variables(_restored(folder, best, like))


def open_run(path: str) -> FinishedRun:
    """Raises `UserError` where `path` is not the directory of a finished run."""
    folder = Path(path)
    for name in ("config.json", "results.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"no {name} in {folder}: give the directory of a finished run, or a "
                f"file that ends in {', '.join(FILES)}"
            )
    config = plain(read_json(folder / "config.json"))
    rows = read_json(folder / "results.json").get("runs", [])
    if "model" not in config or not rows:
        raise UserError(f"{folder} holds no trained classifiers: name another run")
    return FinishedRun(folder, config, tuple(rows))


def _restored(folder: Path, best: bool, like: PyTree) -> TrainState:
    checkpoints = Checkpointer(folder, track_best=best, read_only=True)
    try:
        if best:
            return checkpoints.restore_best(like)
        found = checkpoints.restore_latest(like)
    finally:
        checkpoints.close()
    if found is None:
        raise UserError(f"no checkpoint in {folder}: run it again")
    return found[0]


def _laid_out(layout, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)
