"""What a run says about its generated pool: manifest, check and pictures."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust import rng
from jaxrobust.data.image_set import UNLABELLED, ImageSet
from jaxrobust.evaluators.check import Check
from jaxrobust.files import write_atomic
from jaxrobust.generative.quality import nearest, pool_quality
from jaxrobust.report import style
from jaxrobust.tasks.sampling import Origin
from jaxrobust.tree import plain
from jaxrobust.workdir import Workdir

FOLDER = "generated"
QUALITY_SAMPLE = 4096
REFERENCE_SAMPLE = 50_000
"""Training images that copies are looked for among: all of CIFAR-10."""

NEIGHBOURS = 5
LOOKED_AT = 512
ROWS, COLUMNS, PAIRS = 20, 10, 12
_TILE, _GAP, _NAMES, _HEAD = 48, 4, 96, 28  # CSS pixels


def pool_facts(origin: Origin, pool: ImageSet, seconds: float) -> dict[str, Any]:
    """The manifest of the pool: how it was made, of what, and how good it is."""
    spec, splits = plain(origin.config["generator"]), origin.splits
    trained_on = {
        "sha256": splits.train.fingerprint(),
        "provenance": splits.train.provenance,
        "images": len(splits.train),
    }
    image, label = _sample_of(pool, QUALITY_SAMPLE)
    quality = pool_quality(
        (image, label if is_labelled(pool) else None),
        _sample_of(splits.train, REFERENCE_SAMPLE),
        _sample_of(splits.test, QUALITY_SAMPLE),
        NEIGHBOURS,
    )
    return {
        "pool_sha256": pool.fingerprint(),
        "count": len(pool),
        "trained_on": trained_on,
        "per_class": _per_class(pool),
        "generator": spec,
        "generator_sha256": hashlib.sha256(repr(spec).encode()).hexdigest(),
        "seed": spec["seed"],
        "seconds": round(seconds, 1),
        "quality": quality,
    }


def pool_check(workdir: Workdir) -> Check:
    """That no test image is in the pool, from the distances in its manifest."""
    facts = json.loads((workdir.path / FOLDER / "manifest.json").read_text())
    smallest = facts["quality"]["nn_generated_test_min"]
    return Check(
        "no test image in the generated pool",
        smallest > 0,
        f"smallest distance to a test image {smallest:.4f}; memorisation ratio "
        f"{facts['quality']['memorisation_ratio']:.2f}",
        "the generator saw the training split only; ratio 1 = as new as test images",
    )


def write_pictures(pool: ImageSet, train: ImageSet, folder: Path) -> None:
    """`samples.png`, a row for each class, and `neighbours.png`, generated images with
    the training image nearest to each, the closest pairs first."""
    folder.mkdir(exist_ok=True)
    write_atomic(folder / "samples.png", _samples(pool))
    write_atomic(folder / "neighbours.png", _neighbours(pool, train))


def _samples(pool: ImageSet) -> bytes:
    if is_labelled(pool):
        shown = {
            name: np.flatnonzero(pool.label == k)[:COLUMNS]
            for k, name in enumerate(pool.class_names[:ROWS])
        }
    else:
        first = np.arange(min(len(pool), COLUMNS**2))
        shown = {f"{row[0]} ...": row for row in np.array_split(first, COLUMNS)}
    pitch = _TILE + _GAP
    size = (_NAMES + COLUMNS * pitch, _HEAD + len(shown) * pitch)
    figure = style.sheet(*size, f"Generated, the first of {len(pool)}")
    for row, (name, index) in enumerate(shown.items()):
        top = _HEAD + row * pitch
        middle = 1 - (top + _TILE / 2) / size[1]
        label = style.plain(style.shorten(name, 14))
        figure.text(
            0, middle, label, size=style.px(11), va="center", color=style.ON_ANY
        )
        for column, image in enumerate(np.asarray(pool.take(index).image)):
            style.place(figure, image, _NAMES + column * pitch, top, _TILE, "")
    return style.png_bytes(figure)


def _neighbours(pool: ImageSet, train: ImageSet) -> bytes:
    query, reference = _chosen(pool, LOOKED_AT), _chosen(train, REFERENCE_SAMPLE)
    distance, position = nearest(_unit(query), _unit(reference), 1)
    order = np.argsort(distance[:, 0], kind="stable")[:PAIRS]
    across, pitch = 4, (2 * (_TILE + _GAP) + 16, _TILE + 20)
    rows = -(-len(order) // across)
    title = f"Closest to a training image, of {len(query)} generated"
    figure = style.sheet(across * pitch[0], _HEAD + rows * pitch[1], title)
    for place, i in enumerate(order):
        left = (place % across) * pitch[0]
        top = _HEAD + (place // across) * pitch[1]
        copy, original = query.image[i], reference.image[position[i, 0]]
        style.place(figure, copy, left, top, _TILE, "made")
        text = f"at {distance[i, 0]:.2f}"
        style.place(figure, original, left + _TILE + _GAP, top, _TILE, text)
    return style.png_bytes(figure)


def is_labelled(pool: ImageSet) -> bool:
    """Whether every image has a class."""
    return bool(np.all(pool.label != UNLABELLED))


def _per_class(pool: ImageSet) -> dict[str, int] | None:
    if not is_labelled(pool):
        return None
    counts = np.bincount(pool.label, minlength=pool.num_classes)
    return dict(zip(pool.class_names, counts.tolist()))


def _chosen(images: ImageSet, limit: int) -> ImageSet:
    """Up to `limit` images, drawn at random."""
    size = min(limit, len(images))
    return images.take(rng.host_choice(0, 0, len(images), size))


def _sample_of(images: ImageSet, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to `limit` images in [0,1], drawn at random, with their labels."""
    taken = _chosen(images, limit)
    return _unit(taken), taken.label


def _unit(images: ImageSet) -> np.ndarray:
    return np.asarray(images.image, np.float32) / 255.0
