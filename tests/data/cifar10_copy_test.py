"""The real CIFAR-10, as a JPEG copy, read alike by every source."""

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxrobust.data import load_splits
from jaxrobust.data.cifar_bin import cifar_bin
from jaxrobust.data.folder import folder
from jaxrobust.data.npz import npz

ROOT = Path(__file__).resolve().parents[2]
UNPACK = ROOT.parent / "shared" / "data" / "unpack_cifar10.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not UNPACK.is_file(), reason="the CIFAR-10 copy is not in ../shared/data"
    ),
]


def unpack(out, *flags):
    subprocess.run([sys.executable, str(UNPACK), str(out), *flags], check=True)
    return str(out)


@pytest.fixture(scope="module")
def npz_path(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("cifar_npz"))


def test_binary_files_hold_the_same_as_npz(npz_path, tmp_path):
    path = unpack(tmp_path, "--bin")
    for split, count in (("train", 50_000), ("test", 10_000)):
        mapped, read = npz(split, npz_path), cifar_bin(split, path)
        assert mapped.image.shape == (count, 32, 32, 3)
        assert isinstance(mapped.image, np.memmap)
        assert mapped.fingerprint() == read.fingerprint()
        assert read.class_names[0] == "airplane" and read.num_classes == 10


def test_folder_holds_the_same_in_class_order(npz_path, tmp_path):
    # The test images alone: writing all 60,000 files takes most of a minute.
    with tarfile.open(UNPACK.with_name("cifar10-jpeg.tar.xz")) as archive:
        members = [m for m in archive if m.name.startswith("test/")]
        archive.extractall(tmp_path, members, filter="data")
    mapped, read = npz("test", npz_path), folder("test", str(tmp_path), 0)
    assert (np.diff(read.label) >= 0).all()

    def contents(found):
        pairs = zip(np.asarray(found.image), found.label, strict=True)
        return sorted((int(label), pixels.tobytes()) for pixels, label in pairs)

    # The npz file is shuffled, so only the collections can agree.
    assert contents(read) == contents(mapped)


def test_automobile_and_truck_make_a_two_class_problem(npz_path):
    (Path(npz_path) / "class_names.txt").write_text(
        "\n".join("airplane automobile bird cat deer dog frog horse ship truck".split())
    )
    splits = load_splits(
        "npz",
        npz_path,
        dataset="",
        image_size=0,
        classes=("automobile", "truck"),
        train_limit=1000,
        test_limit=0,
        val_count=500,
        seed=0,
        provenance="cifar10 (jpeg q75 copy)",
    )
    assert [len(part) for part in splits] == [1000, 500, 2000]
    for part in splits:
        assert part.class_names == ("automobile", "truck")
        np.testing.assert_array_equal(np.bincount(part.label), [len(part) // 2] * 2)
