"""Raw pools: uint8 pixels in one .bin file, labels in an .npy file beside it."""

import math
from pathlib import Path

import numpy as np

from jaxrobust.data.files import need_path, read_names, short
from jaxrobust.data.image_set import ImageSet, check_labels, validate
from jaxrobust.errors import UserError


def raw_bin(split: str, path: str, image_size: int) -> ImageSet:
    """RGB images u8[N,size,size,3] of a raw file `path`, mapped and never read as a
    whole; labels int[N] of the only .npy file beside it, or of the one named like it.

    `image_size` 0 means 32. Such a file is a pool, of one split called "train"; class
    names come from a `class_names.txt` beside it, else they are numbers. Raises
    `UserError` for files that do not fit each other.

    Ref: the pools of Sehwag et al., arXiv:2104.09425 (6M and 9.4M images of DDPMs).
    """
    file = need_path("raw_bin", path)
    if file.suffix != ".bin" or not file.is_file():
        raise UserError(f"raw_bin: {short(file)} is not a .bin file of raw pixels")
    if split != "train":
        raise UserError(f"{short(file)} is a pool, which has no {split} split")
    side = image_size or 32
    shape = (side, side, 3)
    count, rest = divmod(file.stat().st_size, math.prod(shape))
    if rest or not count:
        raise UserError(
            f"{short(file)} has {file.stat().st_size} bytes, no multiple of "
            f"{math.prod(shape)}, an image of {side}x{side}: set image_size"
        )
    image = np.memmap(file, np.uint8, mode="r", shape=(count, *shape))
    label = np.load(_labels(file), mmap_mode="r", allow_pickle=False)
    check_labels(label, count)
    names = read_names(file.parent / "class_names.txt")
    return validate(ImageSet(image, label, names, f"raw file {short(file)}"))


def _labels(file: Path) -> Path:
    named = file.with_suffix(".npy")
    found = [named] if named.is_file() else sorted(file.parent.glob("*.npy"))
    if len(found) != 1:
        raise UserError(
            f"{short(file)} has {len(found)} .npy files of labels beside it: keep one, "
            f"or call it {named.name}"
        )
    return found[0]
