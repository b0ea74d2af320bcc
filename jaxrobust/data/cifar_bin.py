"""CIFAR-10 and CIFAR-100 in their official binary layout, without pickle."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrobust.data.files import need_path, read_names, short
from jaxrobust.data.image_set import ImageSet, validate
from jaxrobust.errors import UserError

PIXELS = 3 * 32 * 32


class Layout(NamedTuple):
    """File names and record of one official binary version."""

    files: dict[str, tuple[str, ...]]
    names: str
    label_bytes: int
    classes: int


LAYOUTS = {
    "CIFAR-10": Layout(
        files={
            "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        names="batches.meta.txt",
        label_bytes=1,
        classes=10,
    ),
    "CIFAR-100": Layout(
        files={"train": ("train.bin",), "test": ("test.bin",)},
        names="fine_label_names.txt",
        label_bytes=2,  # coarse, then fine: the fine one is the class
        classes=100,
    ),
}
FOLDERS = ("", "cifar-10-batches-bin", "cifar-100-binary")


def cifar_bin(split: str, path: str) -> ImageSet:
    """CIFAR-10 or CIFAR-100 (fine labels) from a folder of official .bin files.

    Which of the two is told by the file names; class names come from the text file
    beside them, else they are numbers. Rows are in file order. Raises `UserError` where
    files are missing or not a whole number of records.
    """
    root = need_path("cifar_bin", path)
    folder, name = _find(root, split)
    layout = LAYOUTS[name]
    record = layout.label_bytes + PIXELS
    rows = np.concatenate(
        [_read(folder / file, record) for file in layout.files[split]]
    )
    pixels = rows[:, layout.label_bytes :].reshape(-1, 3, 32, 32)
    names = read_names(folder / layout.names)
    names = names or tuple(str(k) for k in range(layout.classes))
    return validate(
        ImageSet(
            np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)),
            rows[:, layout.label_bytes - 1].astype(np.int32),
            names,
            f"{name} binary files in {short(folder)}, {split} split",
        )
    )


def _find(root: Path, split: str) -> tuple[Path, str]:
    """The folder that holds a layout's files of this split, and the layout's name."""
    missing = "data_batch_1.bin or train.bin"
    for folder in (root / name for name in FOLDERS):
        for name, layout in LAYOUTS.items():
            absent = [
                file for file in layout.files[split] if not (folder / file).is_file()
            ]
            if not absent:
                return folder, name
            if len(absent) < len(layout.files[split]):
                missing = absent[0]
    raise UserError(
        f"{short(root)} has no {missing}: path must be the folder of the official "
        f"binary version of CIFAR-10 or CIFAR-100 ({split} split)"
    )


def _read(path: Path, record: int) -> np.ndarray:
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % record:
        raise UserError(
            f"{short(path)} has {len(data)} bytes, not a multiple of {record}: it is "
            "cut off or not in the official layout, unpack it again"
        )
    return data.reshape(-1, record)
