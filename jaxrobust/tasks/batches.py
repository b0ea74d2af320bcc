"""Whether batches divide into all that they are to be divided into."""

from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from jaxrobust import sharding
from jaxrobust.accumulate import check_slices
from jaxrobust.errors import UserError

Config = Mapping[str, Any]


def check_batches(config: Config, mesh: Mesh) -> None:
    """Raises `UserError` where batches of training or evaluation do not divide over the
    devices, or a training batch not into the slices and BatchNorm groups asked for."""
    train, count = config["train"], mesh.devices.size
    size, slices = train["batch_size"], train["accumulate"]
    sharding.check_batch_size(size, mesh)
    sharding.check_batch_size(config["eval"]["batch_size"], mesh)
    check_slices(slices, size, count)
    chosen = [
        name
        for name, spec in config["methods"].items()
        if spec.get("select", {}).get("name", "all") != "all"
    ]
    if slices > 1 and chosen:
        raise UserError(
            f"train.accumulate = {slices} cuts batches into slices, and the method "
            f"{chosen[0]} selects out of whole ones: set it to 1, or lower batch_size"
        )
    groups = config["model"].get("bn_groups", 1)
    if groups < 1 or (size // slices) % groups:
        raise UserError(
            f"model.bn_groups = {groups} does not divide the {size // slices} images "
            "that BatchNorm sees at a time: choose a number that does"
        )
