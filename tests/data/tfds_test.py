import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data.tfds import tfds

from .conftest import assert_refused, random_arrays

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")
NAMES = ("ant", "bee", "cow")


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def prepare(root, name, splits):
    """Write a set as array_record; TensorFlow is not needed for encoded images."""
    import tensorflow_datasets

    base = tensorflow_datasets.core.GeneratorBasedBuilder

    class Tiny(base, skip_registration=True):
        """Random images."""

        # Without a path TFDS looks for no checksum file, nor for importlib_resources.
        code_path = None
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            features = tensorflow_datasets.features
            return tensorflow_datasets.core.DatasetInfo(
                builder=self,
                features=features.FeaturesDict(
                    {
                        "id": features.Text(),
                        "image": features.Image(shape=(None, None, 3)),
                        "label": features.ClassLabel(names=NAMES),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {split: self._rows(*arrays) for split, arrays in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

        def _rows(self, image, label):
            for i, (x, y) in enumerate(zip(image, label, strict=True)):
                yield i, {"id": f"{i}", "image": png(x), "label": int(y)}

    Tiny.name = name
    Tiny(data_dir=root, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    train, test = random_arrays(count=60, seed=1), random_arrays(count=30, seed=2)
    prepare(root, "tiny_full", {"train": train, "test": test})
    prepare(root, "tiny_val", {"train": train, "validation": test})
    prepare(root, "tiny_train", {"train": train})
    return root


def by_bytes(image, label):
    return sorted((x.tobytes(), int(y)) for x, y in zip(image, label, strict=True))


def test_prepared_set_comes_back_bit_for_bit(data_dir):
    for split, count, seed in (("train", 60, 1), ("test", 30, 2)):
        found = tfds(split, str(data_dir), "tiny_full", 0)
        assert found.image.shape == (count, 8, 8, 3)
        assert found.class_names == NAMES
        assert found.provenance == f"tfds tiny_full/1.0.0, {split} split"
        # TFDS stores in an order of its own.
        expected = by_bytes(*random_arrays(count=count, seed=seed))
        assert by_bytes(found.image, found.label) == expected
        again = tfds(split, str(data_dir), "tiny_full:1.0.0", 0)
        assert again.fingerprint() == found.fingerprint()


def test_image_size_resizes(data_dir):
    found = tfds("test", str(data_dir), "tiny_full", 16)
    assert found.image.shape == (30, 16, 16, 3) and "16" in found.provenance


def test_data_dir_of_tfds_is_the_default(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(tfds("test", "", "tiny_full", 0)) == 30


def test_validation_serves_as_test_and_a_lone_train_split_is_split(data_dir):
    found = tfds("test", str(data_dir), "tiny_val", 0)
    assert len(found) == 30 and "validation" in found.provenance
    parts = [tfds(split, str(data_dir), "tiny_train", 0) for split in ("train", "test")]
    assert [len(part) for part in parts] == [48, 12]
    rows = np.sort(np.concatenate([part.source_rows for part in parts]))
    np.testing.assert_array_equal(rows, np.arange(60))
    np.testing.assert_array_equal(np.bincount(parts[1].label), [4, 4, 4])
    assert "80/20" in parts[1].provenance


def test_missing_set_prints_the_command_that_prepares_it(tmp_path):
    command = (
        "tfds.builder('cifar10', data_dir='" + str(tmp_path) + "', "
        "file_format='array_record').download_and_prepare("
    )
    for path in (tmp_path, tmp_path / "nowhere"):
        with assert_refused("not prepared", "pip install", "python -c"):
            tfds("train", str(path), "cifar10", 0)
    with assert_refused(command):
        tfds("train", str(tmp_path), "cifar10", 0)
    with assert_refused("dataset"):
        tfds("train", str(tmp_path), "", 0)


def test_unfinished_preparation_is_not_taken_for_a_set(tmp_path):
    folder = tmp_path / "cifar10" / "incomplete.AB12_3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    with assert_refused("not prepared"):
        tfds("train", str(tmp_path), "cifar10", 0)


def test_tfrecord_prints_the_command_that_prepares_it_elsewhere(tmp_path):
    folder = tmp_path / "data" / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    for info in ({"fileFormat": "tfrecord"}, {}):
        (folder / "dataset_info.json").write_text(json.dumps(info))
        with assert_refused("tfrecord", "python -c", "data_array_record", "set path"):
            tfds("train", str(tmp_path / "data"), "cifar10", 0)
    (folder / "dataset_info.json").write_text("{broken")
    with assert_refused("broken"):
        tfds("train", str(tmp_path / "data"), "cifar10", 0)


def test_lost_shard_is_named(tmp_path):
    arrays = random_arrays()
    prepare(tmp_path, "tiny_lost", {"train": arrays, "test": arrays})
    next((tmp_path / "tiny_lost" / "1.0.0").glob("*-test.array_record*")).unlink()
    assert len(tfds("train", str(tmp_path), "tiny_lost", 0)) == 60
    with assert_refused("tiny_lost-test.array_record-00000-of-00001"):
        tfds("test", str(tmp_path), "tiny_lost", 0)


def test_tensorflow_is_never_imported(data_dir):
    tfds("test", str(data_dir), "tiny_full", 0)
    assert "tensorflow" not in sys.modules


def test_importing_the_sources_does_not_import_tensorflow_datasets():
    import subprocess

    code = (
        "import sys, jaxrobust.data; "
        "assert not {'tensorflow_datasets', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
