"""Trained networks out of run directories and files, for those who only look at
them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flax import linen as nn
from jax.sharding import Mesh

from jaxrobust import data, interop, registry, sharding
from jaxrobust.errors import UserError
from jaxrobust.finished import FILES, FinishedRun, open_run
from jaxrobust.models import MODELS
from jaxrobust.state import bind
from jaxrobust.tasks.setup import Config, build_model
from jaxrobust.threat import ThreatModel, make_threat
from jaxrobust.types import LogitsFn, PyTree


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


def open_source(config: Config, suggested: Config) -> Source:
    """The networks, images and radius that `config` asks for; `suggested` is a radius,
    as in `config.threat`, for what the user leaves open.

    Raises `UserError` where the checkpoint is no run or file, or says nothing of what
    `config` leaves to it.
    """
    mesh = sharding.make_mesh(config["num_devices"])
    sharding.check_batch_size(config["batch_size"], mesh)
    if Path(config["checkpoint"]).suffix in FILES:
        return _file_source(config, suggested, mesh)
    run = open_run(config["checkpoint"])
    own = config["data"]
    splits = data.load_splits(**run.config["data"])
    if own["name"]:
        splits = splits._replace(test=data.load_splits(**own).test)
    elif own["test_limit"]:
        limited = {**run.config["data"], "test_limit": own["test_limit"]}
        splits = splits._replace(test=data.load_splits(**limited).test)
    rows = {
        (r["name"], r["seed"]): r for r in run.find(config["networks"], config["seeds"])
    }

    def load(name: str, seed: int) -> Network:
        return load_network(run, rows[name, seed], splits, mesh, config["dtype"])

    threat = _threat(config["threat"], suggested, run.config["threat"])
    assert threat is not None, "a run has a threat"
    known = {**config, "data": own if own["name"] else run.config["data"]}
    limited = bool(own["name"] or own["test_limit"])
    return Source(tuple(rows), splits, threat, mesh, known, load, limited)


def _file_source(config: Config, suggested: Config, mesh: Mesh) -> Source:
    """One network out of a PyTorch file; images and radius must be given."""
    path = Path(config["checkpoint"])
    threat = _threat(config["threat"], suggested)
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


def _threat(*wishes: Config) -> ThreatModel | None:
    """The ball that the first wish with a norm, and with an eps, asks for; or None."""
    norm, eps = "", -1.0
    for given in wishes:
        norm = norm or given["norm"]
        eps = given["eps"] if eps < 0 else eps
    return make_threat(norm, eps) if norm and eps >= 0 else None


def load_network(
    run: FinishedRun, row: dict, splits: data.Splits, mesh: Mesh, dtype: str
) -> Network:
    """The network behind `row`; `dtype` replaces that of the run unless empty."""
    spec = run.model_spec(row)
    if dtype:
        spec["dtype"] = dtype
    model = build_model(spec, splits.train)
    exact = build_model({**spec, "dtype": "float32"}, splits.train)
    weights = run.variables(row, model, splits.train.image.shape[1:], mesh)
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
