"""What was chosen, as files that others can use: NAME.npz and NAME.json."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.data.image_set import ImageSet
from jaxrobust.errors import UserError
from jaxrobust.files import read_json, write_json, write_npz
from jaxrobust.types import Subset

COLUMNS = {"index": "iu", "weight": "f", "score": "f", "kept": "b"}
"""What every manifest has, and the kind of its numbers in NumPy's letters."""

_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, KeyError)
_UNREADABLE += (zipfile.BadZipFile, zlib.error)


class Manifest(NamedTuple):
    """A ranking of candidates and what became of it.

    `columns` hold one row for each candidate, among them `index` int64[M] (pool
    positions), `weight` f32[M], `score` f32[M] and `kept` bool[M]; `kept` means trained
    on. `facts` say which data, method, seed, step and budget, in words and numbers.
    """

    columns: dict[str, np.ndarray]
    facts: dict[str, Any]

    @property
    def subset(self) -> Subset:
        """The kept rows as a `Subset`."""
        kept = self.columns["kept"]
        return Subset(self.columns["index"][kept], self.columns["weight"][kept])


def write_manifest(folder: Path, name: str, manifest: Manifest) -> None:
    """Write both files; the npz comes last, so that its presence means all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", manifest.facts)
    write_npz(folder / f"{name}.npz", manifest.columns)


def read_manifest(folder: Path, name: str) -> Manifest | None:
    """The manifest NAME, or None where it was not finished."""
    path = folder / f"{name}.npz"
    if not path.exists():
        return None
    return Manifest(_read_columns(path), read_json(folder / f"{name}.json"))


def load_manifest(
    path: str | Path, image_set: ImageSet | Sequence[ImageSet] | None = None
) -> Manifest:
    """The manifest of NAME.npz and NAME.json, checked; `path` names either of them, or
    NAME.

    `image_set`, the data that the manifest should be of, is compared by its sha256: one
    set, or the original and the generated one in this order; None compares nothing.
    Raises `UserError` for missing, cut-off or inconsistent files and for other data.
    """
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".npz", ".json") else path
    arrays, facts_file = (stem.with_name(stem.name + end) for end in (".npz", ".json"))
    for file in (arrays, facts_file):
        if not file.is_file():
            raise UserError(
                f"no {file.name} in {file.parent}: a manifest is two files, "
                f"{arrays.name} and {facts_file.name}"
            )
    manifest = Manifest(_read_columns(arrays), read_json(facts_file))
    _check_columns(arrays.name, manifest)
    if image_set is not None:
        parts = [image_set] if isinstance(image_set, ImageSet) else list(image_set)
        _check_data(facts_file.name, manifest, parts)
    return manifest


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path):  # np.load would take other kinds of file as well
            pass
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.asarray(stored[name]) for name in stored}
    except _UNREADABLE as error:
        raise UserError(
            f"{path.name} cannot be read ({type(error).__name__}): it is cut off or "
            "was changed, copy it again"
        ) from None


def _check_columns(name: str, manifest: Manifest) -> None:
    """Raises `UserError` unless the columns are a manifest's and agree with its
    facts."""
    columns, facts = manifest.columns, manifest.facts
    for key, kinds in COLUMNS.items():
        if key not in columns or columns[key].dtype.kind not in kinds:
            held = columns[key].dtype if key in columns else "missing"
            raise UserError(f"{name}: column {key!r} is {held}: is it a manifest?")
    shapes = {key: value.shape for key, value in columns.items()}
    count = len(columns["index"]) if columns["index"].ndim else 0
    wrong = [key for key, shape in shapes.items() if shape[:1] != (count,)]
    if wrong or any(len(shapes[key]) != 1 for key in COLUMNS):
        raise UserError(f"{name}: columns disagree in length ({shapes}): write it anew")
    index, weight = columns["index"], columns["weight"]
    if count and (index[0] < 0 or np.any(index[1:] <= index[:-1])):
        raise UserError(f"{name}: index must ascend from 0 on without repeats: sort it")
    if not np.all(np.isfinite(weight)) or np.any(weight < 0):
        raise UserError(f"{name}: weights must be finite and not negative")
    for key, found in (("candidates", count), ("kept", int(columns["kept"].sum()))):
        stated = facts.get(key, found)
        if isinstance(stated, int) and stated != found:
            raise UserError(
                f"{name} has {found} {key} where its json says {stated}: the two files "
                "are of different runs"
            )


def _check_data(name: str, manifest: Manifest, parts: list[ImageSet]) -> None:
    """Raises `UserError` unless the manifest was made of exactly these images."""
    stated = manifest.facts.get("data_sha256")
    if not isinstance(stated, list) or not stated:
        raise UserError(
            f"{name} does not say which data it is of: state data_sha256, a list with "
            "the fingerprint of each image set, or load it without image sets"
        )
    if len(stated) != len(parts):
        raise UserError(
            f"{name} is of {len(stated)} image set(s), {len(parts)} given: give the "
            "original set, then the generated one if there was one"
        )
    for place, (sha, part) in enumerate(zip(stated, parts, strict=True)):
        if sha != part.fingerprint():
            raise UserError(
                f"{name} is of other data than {part!r} (image set {place + 1}: sha256 "
                f"{str(sha)[:12]}, not {part.fingerprint()[:12]}): load the images as "
                "config.json of that run says"
            )
    size = sum(len(part) for part in parts)
    index = manifest.columns["index"]
    label = np.concatenate([part.label for part in parts])
    if len(index) and index[-1] >= size:
        raise UserError(f"{name}: index {index[-1]} is outside its {size} images")
    stored = manifest.columns.get("label")
    if stored is not None and not np.array_equal(stored, label[index]):
        raise UserError(
            f"{name}: its labels are not those of its images: write it anew"
        )
