"""Trained networks out of run directories and files, for those who only look at
them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from jaxrobust import data, interop, optim, registry, sharding
from jaxrobust.checkpoint import Checkpointer
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.files import read_json
from jaxrobust.models import MODELS
from jaxrobust.selection import adaptive
from jaxrobust.state import bind, create_state, eval_variables, init_variables
from jaxrobust.tasks.setup import Config, build_model
from jaxrobust.threat import ThreatModel, make_threat
from jaxrobust.tree import plain
from jaxrobust.types import LogitsFn, PyTree, TrainState
from jaxrobust.workdir import stage_folder

FILES = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class Network:
    """A network with frozen weights: `logits_fn` as it was trained to compute and
    `exact_fn` in float32; `clean_acc` is what its own run measured, if it did."""

    name: str
    seed: int
    logits_fn: LogitsFn
    exact_fn: LogitsFn
    dtype: str
    model: nn.Module
    variables: PyTree
    clean_acc: float | None


@dataclass(frozen=True)
class Source:
    """Where networks come from: their (name, seed), the data, and how to load one.

    `limited`: the test images are not those that the run itself reported on.
    """

    names: tuple[tuple[str, int], ...]
    splits: data.Splits
    threat: ThreatModel
    mesh: Mesh
    config: Config
    load: Callable[[str, int], Network]
    limited: bool


def open_source(config: Config) -> Source:
    """The networks, images and radius that `config` asks for.

    Raises `UserError` where the checkpoint is no run or file, or says nothing of what
    `config` leaves to it.
    """
    mesh = sharding.make_mesh(config["num_devices"])
    sharding.check_batch_size(config["batch_size"], mesh)
    if Path(config["checkpoint"]).suffix in FILES:
        return _file_source(config, mesh)
    run = open_run(config["checkpoint"])
    own = config["data"]
    splits = data.load_splits(**run.config["data"])
    if own["name"]:
        splits = splits._replace(test=data.load_splits(**own).test)
    elif own["test_limit"]:
        limited = {**run.config["data"], "test_limit": own["test_limit"]}
        splits = splits._replace(test=data.load_splits(**limited).test)
    rows = {(r["name"], r["seed"]): r for r in run.find(config)}

    def load(name: str, seed: int) -> Network:
        return run.network(rows[name, seed], splits, mesh, config["dtype"])

    threat = _threat(config, run.config["threat"])
    assert threat is not None, "a run has a threat"
    known = {**config, "data": own if own["name"] else run.config["data"]}
    limited = bool(own["name"] or own["test_limit"])
    return Source(tuple(rows), splits, threat, mesh, known, load, limited)


def _file_source(config: Config, mesh: Mesh) -> Source:
    """One network out of a PyTorch file; images and radius must be given."""
    path, unknown = Path(config["checkpoint"]), {"norm": "", "eps": -1.0}
    threat = _threat(config, unknown)
    if threat is None or not config["data"]["name"]:
        raise UserError(
            f"{path} does not say what it was trained for: give --config.data.name "
            "(and path), --config.threat.norm and --config.threat.eps"
        )
    splits = data.load_splits(**config["data"])
    mean, std = (config["preprocessing"][key] or None for key in ("mean", "std"))
    spec, variables = interop.load_torch(path, mean=mean, std=std)
    if spec["num_classes"] != splits.test.num_classes:
        raise UserError(
            f"{path} tells {spec['num_classes']} classes apart, the images have "
            f"{splits.test.num_classes}: choose other --config.data"
        )
    build = lambda dtype: registry.build("model", MODELS, {**spec, "dtype": dtype})

    def load(name: str, seed: int) -> Network:
        weights = sharding.replicate(variables, mesh)
        logits_fn = bind(build(config["dtype"] or "float32"), weights, "running")
        exact_fn = bind(build("float32"), weights, "running")
        dtype, model = config["dtype"] or "float32", build("float32")
        return Network(
            name, seed, logits_fn, exact_fn, dtype, model, variables, clean_acc=None
        )

    return Source(((path.stem, 0),), splits, threat, mesh, config, load, True)


def _threat(config: Config, own: Config) -> ThreatModel | None:
    """The ball that the user gave, else the suite's, else `own`; None for no ball."""
    norm, eps = "", -1.0
    suite = registry.lookup("suite", config["suites"], config["suite"])
    for given in (config["threat"], suite["threat"], own):
        norm = norm or given["norm"]
        eps = given["eps"] if eps < 0 else eps
    return make_threat(norm, eps) if norm and eps >= 0 else None


@dataclass(frozen=True)
class TrainedRun:
    """A finished run directory: its configuration and the rows of its table."""

    path: Path
    config: dict[str, Any]
    rows: tuple[dict[str, Any], ...]

    def find(self, config: Config) -> list[dict]:
        """The rows of `config.networks` (all for none) and `config.seeds`."""
        names, seeds = config["networks"], config["seeds"]
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

    def network(
        self, row: dict, splits: data.Splits, mesh: Mesh, dtype: str
    ) -> Network:
        """The weights behind `row`; `dtype` replaces that of the run unless empty."""
        spec = dict(self.config["model"])
        if dtype:
            spec["dtype"] = dtype
        model = build_model(spec, splits.train)
        exact = build_model({**spec, "dtype": "float32"}, splits.train)
        stage = stage_folder(row.get("same_as", row["name"]), row["seed"])
        shape = splits.train.image.shape[1:]
        state = self._state(row["name"], stage, model, shape, mesh)
        weights = eval_variables(state)
        return Network(
            name=row["name"],
            seed=row["seed"],
            logits_fn=bind(model, weights, "running"),
            exact_fn=bind(exact, weights, "running"),
            dtype=spec.get("dtype", "float32"),
            model=exact,
            variables=weights,
            clean_acc=row.get("clean_acc"),
        )

    def _state(
        self, name: str, stage: str, model: nn.Module, image_shape, mesh: Mesh
    ) -> TrainState:
        folder = self.path / "checkpoints" / stage
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist: the run is unfinished or its checkpoints "
                "were removed; run it again with the same command"
            )
        train = self.config["train"]
        tx = optim.make_optimiser(self.config["optim"], total_steps=1)
        # The networks of a comparison are called by their choice, which never adapts.
        method = self.config["methods"].get(name.partition(" / ")[0], {})
        adapts = method.get("select", {}).get("sizes")
        memory = adaptive.init() if adapts else None

        def fresh(key: jax.Array) -> PyTree:
            variables = init_variables(model, tuple(image_shape), key)
            return create_state(variables, tx, train["ema_decay"] > 0, memory)

        laid_out = partial(_laid_out, sharding.replicated(mesh))
        like = jax.tree.map(laid_out, jax.eval_shape(fresh, jax.random.key(0)))
        best = train["keep"] == "best_val"
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


def open_run(path: str) -> TrainedRun:
    """Raises `UserError` where `path` is not the directory of a finished run."""
    folder = Path(path)
    for name in ("config.json", "results.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"no {name} in {folder}: --config.checkpoint wants the directory of a "
                f"finished run, or a file that ends in {', '.join(FILES)}"
            )
    config = plain(read_json(folder / "config.json"))
    rows = read_json(folder / "results.json").get("runs", [])
    if "model" not in config or not rows:
        raise UserError(f"{folder} holds no trained classifiers: name another run")
    return TrainedRun(folder, config, tuple(rows))
