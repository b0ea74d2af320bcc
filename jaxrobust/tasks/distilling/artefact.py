"""A distilled set as one file that others can use: images, labels, and how they came
about."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.data.image_set import ImageSet
from jaxrobust.errors import UserError
from jaxrobust.files import write_npz

Facts = Mapping[str, Any]


class Distilled(NamedTuple):
    """A set and what is known of it: `logits` f16[N,K] is what the teacher says of the
    images as they are, [0,K] without a teacher."""

    images: ImageSet
    logits: np.ndarray
    facts: Facts


def pixels(image: np.ndarray) -> np.ndarray:
    """f32[...] in [0,1] as uint8; what leaves [0,1] is clipped."""
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def write_distilled(
    path: Path, found: Distilled, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """`image` u8[N,H,W,C], `label` i32[N], `logits`, `class_names`, `mean` and `std`
    f32[C] of the networks' normalisation, `provenance`: the facts as a JSON string."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(
        path,
        {
            "image": np.asarray(found.images.image[:]),
            "label": found.images.label,
            "logits": found.logits,
            "class_names": np.array(found.images.class_names),
            "mean": np.asarray(mean, np.float32),
            "std": np.asarray(std, np.float32),
            "provenance": np.array(json.dumps(dict(found.facts), sort_keys=True)),
        },
    )


def read_distilled(path: Path) -> Distilled | None:
    """What was written to `path`, or None where nothing was; raises `UserError` for a
    file that is no distilled set."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            facts = json.loads(str(file["provenance"]))
            images = ImageSet(
                file["image"],
                file["label"],
                tuple(map(str, file["class_names"])),
                facts["origin"],
            )
            return Distilled(images, file["logits"], facts)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): remove it, the run makes it again"
        ) from error
