"""npz files with `image` and `label`: your own, Rebuffi's and EDM's pools."""

import logging
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxrobust.data.files import need_path, read_names, short
from jaxrobust.data.image_set import (
    UNLABELLED,
    ImageSet,
    Pixels,
    check_labels,
    check_shape,
    validate,
)
from jaxrobust.data.shards import Shards
from jaxrobust.errors import UserError

log = logging.getLogger(__name__)
LOCAL_HEADER_BYTES = 30


def npz(split: str, path: str) -> ImageSet:
    """Images and labels of npz files: `image` uint8[N,H,W,C], `label` int[N].

    `path` holds `<split>.npz` or a folder `<split>/` of shards, which are read as one
    in the order of their names; a file, or a folder with none of these, is a pool of
    one split called "train". What `np.savez` wrote stays on disk and is mapped; what
    `np.savez_compressed` wrote is read into memory. Class names come from a member
    `class_names` or a `class_names.txt` beside the files, else they are numbers. Raises
    `UserError` for missing files or members, and for what `validate` refuses.
    """
    root = need_path("npz", path)
    files = _files(root, split)
    parts = [_part(file) for file in files]
    image = _join(files, [image for image, _ in parts])
    label = np.concatenate([label for _, label in parts])
    where = short(files[0]) if len(files) == 1 else short(files[0].parent)
    where += "" if len(files) == 1 else f" ({len(files)} shards)"
    found = validate(
        ImageSet(image, label, _class_names(files[0], root), f"npz {where}")
    )
    if len(found) > found.num_classes and np.all(np.diff(found.label) >= 0):
        log.warning(
            "%s is sorted by class: a limit takes a stratified random choice of it, "
            "never the first images",
            where,
        )
    return found


def npz_images(path: str, class_names: tuple[str, ...]) -> ImageSet:
    """The images of a pool in npz files, mapped, as `UNLABELLED`: to be labelled before
    anything is trained on them. Labels that the files may have are not read."""
    files = _files(need_path("npz", path), "train")
    image = _join(files, [_member(file, "image") for file in files])
    check_shape(image)
    if image.dtype != np.uint8:
        raise UserError(f"{short(files[0])} holds {image.dtype} images: save as uint8")
    label = np.full(len(image), UNLABELLED, np.int32)
    return ImageSet(image, label, class_names, f"npz {short(files[0])}, unlabelled")


def _files(root: Path, split: str) -> list[Path]:
    if root.is_file():
        if split != "train":
            raise UserError(
                f"{short(root)} is a single file, which has no {split} split: give a "
                "folder with train.npz and test.npz"
            )
        return [root]
    single, folder = root / f"{split}.npz", root / split
    if single.is_file():
        return [single]
    shards = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    splits = [root / name for name in ("train", "test", "train.npz", "test.npz")]
    if not shards and split == "train" and not any(path.exists() for path in splits):
        shards = sorted(root.glob("*.npz"))
    if not shards:
        raise UserError(
            f"{short(root)} has no {split}.npz and no {split}/*.npz: save one with "
            f"np.savez('{split}.npz', image=image, label=label)"
        )
    return shards


def _part(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one file, which must match within it."""
    image, label = _member(path, "image"), np.array(_member(path, "label"))
    try:
        check_shape(image)
        check_labels(label, len(image))
    except UserError as error:
        raise UserError(f"{short(path)}: {error}") from None
    return image, label


def _member(path: Path, name: str) -> np.ndarray:
    """One array of an npz file: mapped where it is stored, read where compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{name}.npy" not in archive.namelist():
                held = ", ".join(n.removesuffix(".npy") for n in archive.namelist())
                raise UserError(
                    f"{short(path)} holds {held or 'nothing'} but no {name!r}: save it "
                    "with np.savez(path, image=image, label=label)"
                )
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type == zipfile.ZIP_STORED:
                return _mapped(path, info)
            if name == "image":
                log.info(
                    "%s is compressed: all its %.2f GB are read into memory; write it "
                    "with np.savez to have it mapped",
                    short(path),
                    info.file_size / 1e9,
                )
            with archive.open(info) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{short(path)}, member {name!r}, cannot be read "
            f"({type(error).__name__}): it is cut off or holds Python objects, save it "
            "again with np.savez"
        ) from None


def _mapped(path: Path, info: zipfile.ZipInfo) -> np.ndarray:
    """The array of an uncompressed member, mapped by its offset in the zip file.

    `np.load(mmap_mode="r")` ignores its argument for npz files and reads everything.
    """
    with open(path, "rb") as stream:
        stream.seek(info.header_offset)
        header = stream.read(LOCAL_HEADER_BYTES)
        # The local header repeats the name and has extra fields of its own length.
        name_bytes = int.from_bytes(header[26:28], "little")
        extra_bytes = int.from_bytes(header[28:30], "little")
        stream.seek(name_bytes + extra_bytes, 1)
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(stream)
        offset = stream.tell()
    if dtype.hasobject:
        raise ValueError("object arrays need pickle")
    if not np.prod(shape):
        return np.empty(shape, dtype)  # an empty file region cannot be mapped
    order = "F" if fortran else "C"
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order=order)


def _join(files: list[Path], pixels: list[np.ndarray]) -> Pixels:
    for path, part in zip(files, pixels, strict=True):
        if part.shape[1:] != pixels[0].shape[1:] or part.dtype != pixels[0].dtype:
            raise UserError(
                f"{short(path)} holds {part.dtype}{list(part.shape[1:])} images, "
                f"{short(files[0])} {pixels[0].dtype}{list(pixels[0].shape[1:])}: "
                "shards must agree"
            )
    return pixels[0] if len(pixels) == 1 else Shards(pixels)


def _class_names(first: Path, root: Path) -> tuple[str, ...]:
    with zipfile.ZipFile(first) as archive:
        if "class_names.npy" in archive.namelist():
            return tuple(str(name) for name in _member(first, "class_names").ravel())
    return read_names((root if root.is_dir() else root.parent) / "class_names.txt")
