"""A folder of pictures, one sub-folder for each class."""

import os
from pathlib import Path

import numpy as np

from jaxrobust.data import choice
from jaxrobust.data.files import need_path, short
from jaxrobust.data.image_set import ImageSet, validate
from jaxrobust.data.pixels import decode_all
from jaxrobust.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}


def folder(split: str, path: str, image_size: int) -> ImageSet:
    """Pictures in `<path>/<split>/<class>/`, or `<path>/<class>/` split for you.

    Classes and files are in sorted order, sub-folders included, as torchvision's
    `ImageFolder` numbers them. The test split may be called test, val or validation;
    without any split folder one image in five of every class becomes the test split
    (`choice.unsplit`). `image_size`: see `pixels.decode_all`. Raises `UserError` for a
    class without pictures, and for what `decode_all` refuses.
    """
    root = need_path("folder", path)
    base, whole = _split_folder(root, split)
    names, files, label = _walk(base)
    rows = choice.unsplit(label, split) if whole else None
    if rows is not None:
        files, label = [files[row] for row in rows], label[rows]
    where = f"pictures in {short(base)}"
    where += f" ({split} part of a fixed 80/20 split)" if whole else ""
    where += f", central square resized to {image_size} (bicubic)" if image_size else ""
    image = decode_all(files, image_size)
    return validate(ImageSet(image, label, names, where, rows))


def _split_folder(root: Path, split: str) -> tuple[Path, bool]:
    """The folder that holds the classes, and whether it still must be split."""
    if not root.is_dir():
        raise UserError(f"{short(root)} is a file: path must be a folder of classes")
    for name in SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name, False
    known = [name for names in SPLIT_FOLDERS.values() for name in names]
    found = [name for name in known if (root / name).is_dir()]
    if found:
        raise UserError(
            f"{short(root)} has a folder {found[0]} but none for the {split} split: "
            f"add {SPLIT_FOLDERS[split][0]}/<class>/, or give the folder of classes "
            "itself to have it split 80/20"
        )
    return root, True


def _walk(base: Path) -> tuple[tuple[str, ...], list[Path], np.ndarray]:
    """Class names, files and labels int32[N], in the order of `ImageFolder`."""
    classes = sorted(
        entry.name
        for entry in base.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not classes:
        raise UserError(
            f"{short(base)} has no class folders: put pictures in <class>/*.png or jpg"
        )
    files: list[Path] = []
    counts = []
    for name in classes:
        found = _pictures(base / name)
        if not found:
            raise UserError(
                f"class folder {short(base / name)} holds no png or jpg: remove it or "
                "add pictures"
            )
        files += found
        counts.append(len(found))
    return (
        tuple(classes),
        files,
        np.repeat(np.arange(len(classes), dtype=np.int32), counts),
    )


def _pictures(base: Path) -> list[Path]:
    return [
        Path(root) / name
        for root, _, names in sorted(os.walk(base, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
