"""Where images come from: one function per source, one way to split and limit them."""

import dataclasses
import inspect
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.data import choice
from jaxrobust.data.cifar_bin import cifar_bin
from jaxrobust.data.classes import agree, keep_classes
from jaxrobust.data.digits import digits
from jaxrobust.data.folder import folder
from jaxrobust.data.image_set import ImageSet, validate
from jaxrobust.data.npz import npz, npz_images
from jaxrobust.data.raw_bin import raw_bin
from jaxrobust.data.tfds import tfds
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.registry import build, lookup

__all__ = [
    "SOURCES",
    "ImageSet",
    "Splits",
    "load_split",
    "load_splits",
    "validate",
]

SOURCES = {
    "digits": digits,
    "npz": npz,
    "folder": folder,
    "cifar_bin": cifar_bin,
    "raw_bin": raw_bin,
    "tfds": tfds,
}

UNLABELLED_SOURCES = {"npz": npz_images}
"""Those that can give images alone, as `UNLABELLED`."""

log = logging.getLogger(__name__)


class Splits(NamedTuple):
    """What a run trains on, chooses by, and reports on. `val` may be empty."""

    train: ImageSet
    val: ImageSet
    test: ImageSet

    @property
    def num_classes(self) -> int:
        """How many classes the images have."""
        return self.train.num_classes

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of an image."""
        return tuple(self.train.image.shape[1:])


def load_splits(
    name: str,
    path: str,
    dataset: str,
    image_size: int,
    classes: Sequence[str | int],
    train_limit: int,
    test_limit: int,
    val_count: int,
    seed: int,
    provenance: str,
) -> Splits:
    """Train, validation and test images of source `name`, with the same classes.

    `classes` are kept in that order and renumbered (() keeps all). `val_count` images
    leave the training split first, then `train_limit` of the others are kept, so the
    validation images do not depend on the limit; a limit of 0 keeps all. Every choice
    is random, stratified by class and a function of `seed`; the test split is only
    limited. `provenance`, unless empty, replaces the source's own line. Raises
    `UserError`.
    """
    parts = {
        split: _load(name, split, path, dataset, image_size)
        for split in ("train", "test")
    }
    train, test = parts["train"], agree(parts["test"], parts["train"].class_names)
    if train.image.shape[1:] != test.image.shape[1:]:
        raise UserError(
            f"train images are {list(train.image.shape[1:])}, test images "
            f"{list(test.image.shape[1:])}: bring them to one size (image_size) and "
            "channel count"
        )
    train, test = keep_classes(train, classes), keep_classes(test, classes)
    _check_counts(train, train_limit, test_limit, val_count)
    _warn_empty(train)
    train, val = _hold_out(train, val_count, seed)
    splits = Splits(
        train=_limit(train, train_limit, seed, "train"),
        val=val,
        test=_limit(test, test_limit, seed, "test"),
    )
    return Splits(*(_stated(part, provenance) for part in splits))


def load_split(
    name: str,
    split: str,
    path: str,
    dataset: str,
    image_size: int,
    classes: Sequence[str | int],
    class_names: Sequence[str],
    limit: int,
    seed: int,
    provenance: str,
    needs_labels: bool,
) -> ImageSet:
    """One split of source `name`, such as a pool of generated images.

    As `load_splits`; `class_names`, unless empty, are the names that the classes must
    have after the choice of `classes` (a source that only numbers its classes takes
    them over). Where labels are not needed, the sources of `UNLABELLED_SOURCES` read
    none. Raises `UserError`, also where `classes` are chosen that nobody knows.
    """
    if not needs_labels and name in UNLABELLED_SOURCES:
        if classes:
            raise UserError(
                "a pool without labels has no classes to choose: leave them ()"
            )
        found = UNLABELLED_SOURCES[name](path, tuple(class_names))
    else:
        found = keep_classes(_load(name, split, path, dataset, image_size), classes)
        found = agree(found, tuple(class_names)) if class_names else found
    return _stated(_limit(found, limit, seed, "pool"), provenance)


def _load(name: str, split: str, path: str, dataset: str, image_size: int) -> ImageSet:
    source = lookup("data source", SOURCES, name)
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    if path and "path" not in inspect.signature(source).parameters:
        log.warning("data source %r takes no path: %s is not read", name, path)
    given = {"path": path, "dataset": dataset, "image_size": image_size}
    try:
        return build("data source", SOURCES, {"name": name}, split=split, **given)
    except UserError as error:
        raise UserError(f"{split} data: {error}") from None


def _check_counts(
    train: ImageSet, train_limit: int, test_limit: int, val_count: int
) -> None:
    for key, value in (
        ("train_limit", train_limit),
        ("test_limit", test_limit),
        ("val_count", val_count),
    ):
        if value < 0:
            raise UserError(f"{key}={value} is negative: use 0 for none of it")
    left = len(train) - val_count
    if left < train.num_classes:
        raise UserError(
            f"val_count={val_count} leaves {left} of {len(train)} training images, "
            f"fewer than the {train.num_classes} classes: lower it"
        )
    if 0 < train_limit < train.num_classes:
        raise UserError(
            f"train_limit={train_limit} is below one image for each of the "
            f"{train.num_classes} classes: raise it, or use 0 for all"
        )


def _warn_empty(train: ImageSet) -> None:
    counts = np.bincount(train.label, minlength=train.num_classes)
    empty = [train.class_names[k] for k in np.flatnonzero(counts == 0)]
    if empty:
        log.warning(
            "%d of %d classes have no training image: %s%s",
            len(empty),
            train.num_classes,
            ", ".join(empty[:5]),
            "" if counts[0] else " (are the labels counted from 1?)",
        )


def _hold_out(train: ImageSet, count: int, seed: int) -> tuple[ImageSet, ImageSet]:
    if not count:
        return train, train.take(np.arange(0))
    val = choice.stratified(train.label, count, seed, "val")
    return train.take(choice.complement(len(train), val)), train.take(val)


def _limit(image_set: ImageSet, limit: int, seed: int, purpose: str) -> ImageSet:
    if limit < 0:
        raise UserError(f"limit={limit} is negative: use 0 for all images")
    if limit == 0 or limit >= len(image_set):
        return image_set
    # The unlabelled are a class of their own here.
    label = np.maximum(image_set.label, 0)
    return image_set.take(choice.stratified(label, limit, seed, purpose))


def _stated(image_set: ImageSet, provenance: str) -> ImageSet:
    line = " ".join(provenance.split())
    return dataclasses.replace(image_set, provenance=line) if line else image_set
