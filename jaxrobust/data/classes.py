"""Class names: keep some of them, and make the parts of a run agree on them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxrobust.data.image_set import ImageSet, validate
from jaxrobust.errors import UserError, unknown_name


def keep_classes(image_set: ImageSet, classes: Sequence[str | int]) -> ImageSet:
    """The images of `classes`, by name or number, renumbered 0.. in that order.

    () keeps all. Raises `UserError` for an unknown or repeated class, or a single one.
    """
    if not classes:
        return image_set
    names = image_set.class_names
    wanted = [_class_number(names, entry) for entry in classes]
    if len(set(wanted)) != len(wanted) or len(wanted) < 2:
        raise UserError(
            f"classes={tuple(classes)} must name at least two different classes"
        )
    number = np.full(len(names), -1, np.int32)
    number[wanted] = np.arange(len(wanted))
    kept = image_set.take(np.flatnonzero(number[image_set.label] >= 0))
    return validate(
        dataclasses.replace(
            kept,
            label=number[kept.label],
            class_names=tuple(names[k] for k in wanted),
        )
    )


def agree(image_set: ImageSet, class_names: tuple[str, ...]) -> ImageSet:
    """The set under `class_names`; raises `UserError` where its own names differ.

    A set that has only the first of the classes, or that only numbers as many or fewer,
    takes the names over.
    """
    own = image_set.class_names
    if own == class_names:
        return image_set
    first = own == class_names[: len(own)]
    numbered = _all_numbers(own) and not _all_numbers(class_names)
    if first or (numbered and len(own) <= len(class_names)):
        return dataclasses.replace(image_set, class_names=class_names)
    differing = sorted(set(own) ^ set(class_names)) or ["their order"]
    raise UserError(
        f"two parts of the data name their classes differently ({len(own)} and "
        f"{len(class_names)} classes, differing in {', '.join(differing[:4])}): give "
        "both the same classes"
    )


def _all_numbers(names: tuple[str, ...]) -> bool:
    return all(name.isdigit() for name in names)


def _class_number(names: tuple[str, ...], entry: str | int) -> int:
    if entry in names:
        return names.index(str(entry))
    if isinstance(entry, int) and 0 <= entry < len(names):
        return entry
    raise unknown_name("class", entry, names)
