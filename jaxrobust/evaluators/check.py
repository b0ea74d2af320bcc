"""One line of a card, and the refusal of inputs that no figure could be made of."""

from typing import NamedTuple

import numpy as np
from jax import Array

from jaxrobust.data.image_set import check_labels
from jaxrobust.errors import UserError
from jaxrobust.threat import ThreatModel, make_threat


class Check(NamedTuple):
    """One line of the card: what was checked, whether it held, the figure, and why."""

    name: str
    ok: bool
    value: str
    note: str


def check_inputs(
    image: np.ndarray | Array,
    label: np.ndarray | Array,
    threat: ThreatModel,
) -> None:
    """Raises `UserError` unless these can be attacked: images f32[N,H,W,C] in [0,1],
    labels i32[N], eps in the unit of the images.

    Ref: the most frequent mistakes in the issue trackers of AutoAttack, torchattacks
    and foolbox: normalised images, 0..255 images, eps = 8.
    """
    image, label = np.asarray(image), np.asarray(label)
    _check_layout(image)
    _check_pixels(image)
    check_labels(label, len(image))
    _check_threat(threat)


def check_label_range(label: np.ndarray | Array, num_classes: int) -> None:
    """Raises `UserError` unless labels i32[N] are in 0..num_classes-1."""
    low, high = int(np.min(label)), int(np.max(label))
    if low < 0 or high >= num_classes:
        raise UserError(
            f"label {low if low < 0 else high} is outside 0..{num_classes - 1}: number "
            "the classes as the network does, from 0"
        )


def _check_layout(image: np.ndarray) -> None:
    shape = image.shape
    if image.ndim != 4:
        hint = "add the channel axis with image[..., None]"
        hint = hint if image.ndim == 3 else "give one array of images"
        raise UserError(f"images have shape {shape}, expected [N,H,W,C]: {hint}")
    if len(image) == 0:
        raise UserError("there are no images to attack: check the path and the split")
    if 0 in shape:
        raise UserError(f"images have shape {shape}: they hold no pixels")
    if shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise UserError(
            f"images have shape {shape}, expected [N,H,W,C]: channels come last here, "
            "use image.transpose(0, 2, 3, 1)"
        )


def _check_pixels(image: np.ndarray) -> None:
    if image.dtype.kind != "f":
        raise UserError(
            f"images are {image.dtype}, expected float32 in [0,1]: use "
            "image.astype('float32')" + (" / 255" if image.dtype.kind in "iu" else "")
        )
    broken = ~np.isfinite(image).all(axis=(1, 2, 3))
    if broken.any():
        raise UserError(
            f"{int(broken.sum())} of {len(image)} images hold NaN or infinity: mend or "
            "remove them"
        )
    low, high = float(image.min()), float(image.max())
    if low >= 0 and high <= 1:
        return
    if low >= 0 and 2 < high <= 255:
        hint = "they look like 0..255, divide them by 255"
    else:
        hint = "undo the normalisation, it belongs into the network"
    raise UserError(f"images lie in {low:g}..{high:g}, expected [0,1]: {hint}")


def _check_threat(threat: ThreatModel) -> None:
    """Whoever builds a `ThreatModel` by hand went round the checks of its maker."""
    if tuple(threat.bounds) != (0.0, 1.0):
        raise UserError(
            f"threat.bounds are {threat.bounds}, expected (0, 1): images are in [0,1]"
        )
    for eps in np.unique(np.asarray(threat.eps, np.float64)):
        make_threat(threat.norm, float(eps))
