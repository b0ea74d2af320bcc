"""Choosing a part of a pool: rank, take the top, leave a manifest."""

from jaxrobust.selection.manifest import (
    Manifest,
    load_manifest,
    read_manifest,
    write_manifest,
)
from jaxrobust.selection.scoring import Frozen, ScoringPass
from jaxrobust.selection.spread_topk import keep_top
from jaxrobust.selection.topk import ORDERS, padded_size, take_top

__all__ = [
    "ORDERS",
    "Frozen",
    "Manifest",
    "ScoringPass",
    "keep_top",
    "load_manifest",
    "padded_size",
    "read_manifest",
    "take_top",
    "write_manifest",
]
