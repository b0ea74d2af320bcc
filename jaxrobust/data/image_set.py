"""The image set: what every data source returns and every task consumes."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from jaxrobust.data.shards import Shards
from jaxrobust.errors import UserError

Pixels = np.ndarray | Shards
MIN_SIDE = 8
MAX_CLASSES = 1 << 16
BLOCK_BYTES = 1 << 24
UNLABELLED = -1
"""In memory, the label of an image of an unconditional pool; its files have none."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images, in memory or mapped from files.

    `image` uint8[N,H,W,C], intensities 0..255; `label` int32[N]; `class_names[label]`;
    `provenance` one line: where the pixels came from; `rows` int64[N], the positions of
    the images in their source, or None when the set is the whole source in order.
    """

    image: Pixels
    label: np.ndarray
    class_names: tuple[str, ...]
    provenance: str
    rows: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        """How many classes the labels may name."""
        return len(self.class_names)

    @property
    def source_rows(self) -> np.ndarray:
        """int64[N]: the position of each image in the file or folder it came from."""
        return np.arange(len(self)) if self.rows is None else self.rows

    def __len__(self) -> int:
        return len(self.label)

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.image.shape)
        return f"ImageSet({shape}, {self.num_classes} classes, {self.provenance!r})"

    def fingerprint(self) -> str:
        """sha256 over shape, labels and pixels: the name of a data set in a manifest.

        Equal for equal content, mapped or in memory; reads all pixels once.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        sha = hashlib.sha256(repr(tuple(int(n) for n in self.image.shape)).encode())
        sha.update(np.ascontiguousarray(self.label, "<i4").tobytes())
        for block in blocks(self.image):
            sha.update(np.ascontiguousarray(block, np.uint8).data)
        return sha.hexdigest()

    def take(self, index: np.ndarray) -> "ImageSet":
        """The images at `index` int64[M], in that order, copied into memory."""
        index = np.asarray(index, np.int64)
        return ImageSet(
            gather(self.image, index),
            self.label[index],
            self.class_names,
            self.provenance,
            self.source_rows[index],
        )


def blocks(image: Pixels) -> Iterator[np.ndarray]:
    """Consecutive pieces of `image` of about 16 MiB, so that mapped sets stream."""
    row_bytes = int(np.prod(image.shape[1:])) * image.dtype.itemsize
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, len(image), step):
        yield image[start : start + step]


def gather(image: Pixels, index: np.ndarray) -> np.ndarray:
    """`image[index]`, read in file order when the pixels live on disk."""
    if isinstance(image, np.ndarray) and not isinstance(image, np.memmap):
        return image[index]
    out = np.empty((len(index), *image.shape[1:]), image.dtype)
    order = np.argsort(index, kind="stable")
    for start in range(0, len(order), 4096):
        rows = order[start : start + 4096]
        out[rows] = image[index[rows]]
    return out


def validate(image_set: ImageSet) -> ImageSet:
    """The set with int32 labels (and numbered classes, where it had no names).

    Raises `UserError` for anything a network could not be trained on: wrong type or
    shape, NaN, labels that are not class numbers, no images, fewer than two classes.
    """
    check_shape(image_set.image)
    check_labels(image_set.label, len(image_set.image))
    if image_set.image.dtype != np.uint8:
        raise UserError(_wrong_type(image_set.image))
    low, high = int(image_set.label.min()), int(image_set.label.max())
    names = image_set.class_names
    names = names or tuple(str(k) for k in range(min(high + 1, MAX_CLASSES)))
    if low < 0 or high >= len(names):
        raise UserError(
            f"label {low if low < 0 else high} is outside 0..{len(names) - 1}: number "
            "the classes from 0 without gaps"
        )
    if low == high:
        raise UserError(
            f"all {len(image_set)} images are of class {names[low]!r}: a classifier "
            "needs images of at least two classes"
        )
    label = np.ascontiguousarray(image_set.label, np.int32)
    return dataclasses.replace(image_set, label=label, class_names=names)


def check_shape(image: Pixels) -> None:
    """Raises `UserError` unless `image` is a non-empty [N,H,W,1 or 3], H and W >= 8."""
    shape = tuple(image.shape)
    if len(shape) == 3:
        hint = "add the channel axis with image[..., None]"
    elif len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        hint = "channels come last here, use image.transpose(0, 2, 3, 1)"
    elif len(shape) == 4 and shape[3] not in (1, 3):
        hint = f"{shape[3]} channels, keep 1 (grey) or 3 (RGB)"
    elif len(shape) == 4 and min(shape[1:3]) < MIN_SIDE:
        hint = f"height and width must be at least {MIN_SIDE}, resize the images"
    elif len(shape) == 4 and shape[0] == 0:
        raise UserError("the image set is empty: check the path and the split")
    elif len(shape) == 4:
        return
    else:
        hint = "save one array of images"
    raise UserError(
        f"images have shape {shape}, expected [N,H,W,1] or [N,H,W,3]: {hint}"
    )


def check_labels(label: np.ndarray, count: int) -> None:
    """Raises `UserError` unless `label` is `count` integers in one axis."""
    if label.ndim == 2 and label.shape[1] > 1:
        raise UserError(
            f"labels have shape {label.shape}, expected [{count}] class numbers: save "
            "label.argmax(1) if they are one-hot"
        )
    if label.ndim != 1:
        raise UserError(
            f"labels have shape {label.shape}, expected [{count}] class numbers: save "
            "label.reshape(-1)"
        )
    if len(label) != count:
        raise UserError(
            f"{count} images but {len(label)} labels: save one label for each image"
        )
    if label.dtype.kind == "f" and np.isnan(label).any():
        raise UserError(
            f"{int(np.isnan(label).sum())} labels are NaN: remove those images or give "
            "them a class number"
        )
    if label.dtype.kind not in "iu":
        raise UserError(
            f"labels are {label.dtype}, not class numbers: save them as integers "
            "counted from 0"
        )


def _wrong_type(image: Pixels) -> str:
    """What images that are not uint8 seem to hold, and how to save them."""
    if image.dtype.kind not in "fiu":
        return f"images are {image.dtype}: save them as uint8 with values 0..255"
    low, high = np.inf, -np.inf
    for block in blocks(image):
        # min and max propagate NaN, so one pass answers both questions.
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        if np.isnan(block).any():
            return f"images are {image.dtype} and hold NaN: mend or remove those images"
    seen = f"images are {image.dtype} with values {low:g}..{high:g}"
    if low >= 0 and high <= 1 and image.dtype.kind == "f":
        return (
            f"{seen}, they look like [0,1]: save them as uint8, (image * 255).round()"
            ".astype('uint8')"
        )
    if low >= 0 and high <= 255:
        return (
            f"{seen}, they look like [0,255]: save them as uint8, image.round()"
            ".astype('uint8')"
        )
    return (
        f"{seen}, neither [0,1] nor [0,255]: undo the normalisation and save as uint8"
    )
