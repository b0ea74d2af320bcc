import numpy as np
import pytest

from jaxrobust.data.cifar_bin import cifar_bin

from .conftest import assert_refused

COUNTS = {10: {"train": 100, "test": 30}, 100: {"train": 200, "test": 100}}


def write(root, classes, seed=0):
    """Official layout: label byte(s), then 3 planes (CHW) of 1024 bytes."""
    generator = np.random.default_rng(seed)
    wanted = {}
    for split, count in COUNTS[classes].items():
        chw = generator.integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)
        label = generator.permutation(np.arange(count) % classes).astype(np.uint8)
        fields = [label[:, None], chw.reshape(count, -1)]
        if classes == 100:
            fields.insert(0, label[:, None] // 5)
        rows = np.concatenate(fields, axis=1)
        names = {"train": ["train.bin"], "test": ["test.bin"]}[split]
        if classes == 10:
            names = [f"data_batch_{i}.bin" for i in range(1, 6)]
            names = names if split == "train" else ["test_batch.bin"]
        for name, part in zip(names, np.split(rows, len(names)), strict=True):
            part.tofile(root / name)
        wanted[split] = (chw, label)
    return wanted


@pytest.mark.parametrize("classes", [10, 100])
def test_planes_become_channels_last_and_fine_labels_are_read(tmp_path, classes):
    for split, (chw, label) in write(tmp_path, classes).items():
        found = cifar_bin(split, str(tmp_path))
        for channel in range(3):
            np.testing.assert_array_equal(found.image[..., channel], chw[:, channel])
        np.testing.assert_array_equal(found.label, label)
        assert found.num_classes == classes
        assert f"CIFAR-{classes}" in found.provenance


@pytest.mark.parametrize(
    "classes, inner, names",
    [
        (10, "cifar-10-batches-bin", "batches.meta.txt"),
        (100, "cifar-100-binary", "fine_label_names.txt"),
    ],
)
def test_names_and_the_unpacked_inner_folder_are_found(tmp_path, classes, inner, names):
    (tmp_path / inner).mkdir()
    write(tmp_path / inner, classes)
    words = [f"thing{k}" for k in range(classes)]
    (tmp_path / inner / names).write_text("\n".join(words) + "\n\n")
    assert cifar_bin("test", str(tmp_path)).class_names == tuple(words)


def test_bad_folders_are_refused(tmp_path):
    with assert_refused("data_batch_1.bin", "train.bin"):
        cifar_bin("train", str(tmp_path))
    write(tmp_path, 10)
    (tmp_path / "data_batch_3.bin").unlink()
    with assert_refused("data_batch_3.bin"):
        cifar_bin("train", str(tmp_path))
    data = (tmp_path / "test_batch.bin").read_bytes()
    for cut in (data[:-1], b""):
        (tmp_path / "test_batch.bin").write_bytes(cut)
        with assert_refused("test_batch.bin", "3073"):
            cifar_bin("test", str(tmp_path))
    (tmp_path / "test_batch.bin").write_bytes(b"\x0b" + data[1:])
    with assert_refused("label 11", "0..9"):
        cifar_bin("test", str(tmp_path))
