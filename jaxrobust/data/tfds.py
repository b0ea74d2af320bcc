"""Any image classification set of TensorFlow Datasets, read without TensorFlow."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.data import choice
from jaxrobust.data.files import short
from jaxrobust.data.image_set import ImageSet, validate
from jaxrobust.data.pixels import decode_all
from jaxrobust.errors import UserError

DEFAULT_DATA_DIR = "~/tensorflow_datasets"
TEST_NAMES = ("test", "validation")
# TFDS imports the second to prepare a set, but does not ask pip for it.
PREPARE_NEEDS = "pip install tensorflow importlib_resources"
VERSION = re.compile(r"\d+\.\d+\.\d+")


def tfds(split: str, path: str, dataset: str, image_size: int) -> ImageSet:
    """The set `dataset` ("name", "name/config", "name:version") prepared under `path`.

    An empty `path` means what TFDS itself takes: $TFDS_DATA_DIR, else
    ~/tensorflow_datasets. Rows are in stored order. Where there is no test split,
    "validation" is used; where there is neither, one image in five of every class
    (`choice.unsplit`). `image_size`: see `pixels.decode_all`. Raises `UserError`, with
    the command that mends it, where the set is not prepared as array_record.
    """
    if not dataset:
        raise UserError("data source 'tfds' needs a dataset: its name, such as cifar10")
    root = Path(path or os.environ.get("TFDS_DATA_DIR", DEFAULT_DATA_DIR)).expanduser()
    folder = _prepared(root, dataset)
    builder = _builder(folder)
    stored, whole = _stored(set(builder.info.splits), split, dataset)
    image_key, label_key = _keys(builder.info, dataset)
    records = _records(builder, folder, stored, image_key)
    label = np.array([record[label_key] for record in records])
    rows = choice.unsplit(label, split) if whole else None
    kept = range(len(records)) if rows is None else rows
    image = decode_all([records[row][image_key] for row in kept], image_size)
    where = f"tfds {folder.relative_to(root).as_posix()}, {stored} split"
    where += f" ({split} part of a fixed 80/20 split)" if whole else ""
    where += f", central square resized to {image_size} (bicubic)" if image_size else ""
    names = tuple(builder.info.features[label_key].names)
    return validate(
        ImageSet(image, label if rows is None else label[rows], names, where, rows)
    )


def prepare_command(root: Path, dataset: str, downloads: Path) -> str:
    """The shell command that prepares `dataset` under `root` as array_record.

    The `tfds` command line would be shorter, but asks for Apache Beam and more.
    """
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{dataset}', data_dir='{root}', file_format='array_record')"
        f".download_and_prepare(download_dir='{downloads}')\""
    )


def _prepared(root: Path, dataset: str) -> Path:
    """The folder root/name[/config]/version of a set prepared as array_record."""
    name, _, version = dataset.partition(":")
    found = [
        info.parent
        for depth in ("*", "*/*")
        for info in (root / name).glob(f"{depth}/dataset_info.json")
        if version in ("", info.parent.name)
    ]
    found = [folder for folder in found if VERSION.fullmatch(folder.name)]
    if not found:
        command = prepare_command(root, dataset, root / "downloads")
        raise UserError(
            f"tfds set {dataset!r} is not prepared in {root}: run (once, after "
            f"{PREPARE_NEEDS}) {command}"
        )
    configs = sorted({folder.parent.name for folder in found})
    if len(configs) > 1:
        raise UserError(
            f"tfds set {dataset!r} is prepared in {len(configs)} configurations: name "
            f"one of {', '.join(f'{name}/{config}' for config in configs)}"
        )
    folder = max(found, key=lambda folder: [int(n) for n in folder.name.split(".")])
    formats = _formats(folder)
    if "array_record" not in formats:
        other = root.with_name(root.name + "_array_record")
        command = prepare_command(other, dataset, root / "downloads")
        raise UserError(
            f"tfds set {dataset!r} in {root} is stored as {' and '.join(formats)}, "
            f"which only TensorFlow reads: run (once, after {PREPARE_NEEDS}) {command} "
            f"and set path to {other}"
        )
    return folder


def _formats(folder: Path) -> list[str]:
    """The formats in which a prepared folder holds its records."""
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        # An old folder does not say: TFRECORD was then the only format.
        return [
            info.get("fileFormat", "tfrecord"),
            *info.get("alternativeFileFormats", []),
        ]
    except (ValueError, AttributeError):
        raise UserError(
            f"{short(folder)}/dataset_info.json is broken: remove the folder and "
            "prepare the set again"
        ) from None


def _builder(folder: Path) -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f"data source 'tfds' needs {error.name}: pip install tensorflow-datasets "
            "array-record pillow"
        ) from None
    return tensorflow_datasets.builder_from_directory(str(folder))


def _stored(splits: set[str], split: str, dataset: str) -> tuple[str, bool]:
    """The stored split to read, and whether it must still be split in two."""
    test = next((name for name in TEST_NAMES if name in splits), None)
    if "train" not in splits:
        raise UserError(
            f"tfds set {dataset!r} has no train split, only "
            f"{', '.join(sorted(splits))}: choose another set or configuration"
        )
    if test is None:
        return "train", True
    return ("train" if split == "train" else test), False


def _keys(info: Any, dataset: str) -> tuple[str, str]:
    """The names of the image and the label in a record."""
    from tensorflow_datasets import features

    kinds = dict(info.features.items())
    pair = info.supervised_keys or ("image", "label")
    if (
        len(pair) != 2
        or not isinstance(kinds.get(pair[0]), features.Image)
        or not isinstance(kinds.get(pair[1]), features.ClassLabel)
    ):
        raise UserError(
            f"tfds set {dataset!r} is not for image classification: its records hold "
            f"{', '.join(sorted(kinds))}"
        )
    return pair[0], pair[1]


def _records(builder: Any, folder: Path, stored: str, image_key: str) -> Sequence[dict]:
    """All records of a split, their images still encoded."""
    import tensorflow_datasets

    missing = [
        path
        for path in map(Path, builder.info.splits[stored].filepaths)
        if not (folder / path.name.replace(".tfrecord-", ".array_record-")).is_file()
    ]
    if missing:
        raise UserError(
            f"{short(folder)} lacks {missing[0].name}: remove the folder and prepare "
            "the set again"
        )
    raw = {image_key: tensorflow_datasets.decode.SkipDecoding()}
    source = builder.as_data_source(stored, decoders=raw)
    return source.__getitems__(range(len(source)))
