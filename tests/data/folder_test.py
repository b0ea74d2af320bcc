import numpy as np
from PIL import Image

from jaxrobust.data.folder import folder
from jaxrobust.data.pixels import square

from .conftest import assert_refused, random_arrays


def write(root, image, label, names=("ant", "bee", "cow"), suffix="png"):
    """Files 00000.png ... in class folders; PNG keeps every bit."""
    for number, (pixels, k) in enumerate(zip(image, label, strict=True)):
        (root / names[k]).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        picture.save(root / names[k] / f"{number:05d}.{suffix}")


def in_folder_order(image, label):
    order = np.argsort(label, kind="stable")
    return image[order], label[order]


def test_pictures_come_back_bit_for_bit_in_class_and_file_order(tmp_path):
    for split, seed, channels in (("train", 1, 3), ("test", 2, 1)):
        image, label = random_arrays(count=300, seed=seed, channels=channels)
        write(tmp_path / split, image, label)
        found = folder(split, str(tmp_path), 0)
        expected, expected_label = in_folder_order(image, label)
        np.testing.assert_array_equal(found.image, expected)
        np.testing.assert_array_equal(found.label, expected_label)
        assert found.class_names == ("ant", "bee", "cow")


def test_resize_is_the_central_square_then_bicubic(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(6):
        height, width = generator.integers(20, 60, 2)
        pixels = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
        write(tmp_path / "train", pixels[None], [number % 2], suffix=f"{number}.png")
    found = folder("train", str(tmp_path), 16)
    assert found.image.shape == (6, 16, 16, 3)
    files = sorted((tmp_path / "train").glob("*/*"))
    for pixels, file in zip(found.image, files, strict=True):
        picture = Image.open(file)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        inner = np.asarray(picture)[top : top + side, left : left + side]
        expected = Image.fromarray(inner).resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pixels, np.asarray(expected))


def test_square_of_the_right_size_is_untouched():
    picture = Image.fromarray(random_arrays(count=1)[0][0])
    np.testing.assert_array_equal(square(picture, 8), picture)
    flat = Image.new("RGB", (31, 17), (10, 200, 30))
    assert (np.asarray(square(flat, 8)) == (10, 200, 30)).all()


def test_unsplit_folder_is_split_four_to_one_and_always_the_same(tmp_path):
    image, label = random_arrays(count=150)
    write(tmp_path, image, label)
    whole, _ = in_folder_order(image, label)
    parts = [folder(split, str(tmp_path), 0) for split in ("train", "test")]
    assert [len(part) for part in parts] == [120, 30]
    for part, per_class in zip(parts, (40, 10), strict=True):
        np.testing.assert_array_equal(np.bincount(part.label), [per_class] * 3)
        np.testing.assert_array_equal(part.image, whole[part.source_rows])
        assert "80/20" in part.provenance
    rows = np.sort(np.concatenate([part.source_rows for part in parts]))
    np.testing.assert_array_equal(rows, np.arange(150))
    again = folder("test", str(tmp_path), 0)
    assert again.fingerprint() == parts[1].fingerprint()


def test_val_folder_serves_as_test_and_nested_pictures_are_found(tmp_path):
    image, label = random_arrays(count=12)
    write(tmp_path / "train", image, label)
    for name in ("ant", "bee", "cow"):
        (tmp_path / "val" / name / "images").mkdir(parents=True)
        picture = Image.fromarray(image[0])
        picture.save(tmp_path / "val" / name / "images" / "a.JPEG")
        (tmp_path / "val" / name / "boxes.txt").write_text("not a picture")
    found = folder("test", str(tmp_path), 0)
    assert len(found) == 3 and found.provenance.endswith("val")


def test_one_colour_picture_makes_the_set_rgb_and_alpha_is_dropped(tmp_path):
    image, label = random_arrays(count=12, channels=1)
    write(tmp_path / "train", image, label)
    assert folder("train", str(tmp_path), 0).image.shape[-1] == 1
    colour = Image.new("RGBA", (8, 8), (1, 2, 3, 40))
    colour.save(tmp_path / "train" / "ant" / "zz.png")
    found = folder("train", str(tmp_path), 0)
    assert found.image.shape == (13, 8, 8, 3)
    assert (found.image[4] == (1, 2, 3)).all()
    np.testing.assert_array_equal(found.image[0][..., 0], found.image[0][..., 2])


def test_bad_folders_are_refused(tmp_path):
    image, label = random_arrays(count=12)
    with assert_refused("path"):
        folder("train", "", 0)
    with assert_refused("class folders"):
        folder("train", str(tmp_path), 0)
    write(tmp_path / "train", image, label)
    with assert_refused("train", "test"):
        folder("test", str(tmp_path), 0)
    (tmp_path / "train" / "dog").mkdir()
    with assert_refused("train/dog", "no png or jpg"):
        folder("train", str(tmp_path), 0)


def test_bad_pictures_are_refused_by_name(tmp_path):
    image, label = random_arrays(count=12)
    write(tmp_path / "train", image, label)
    extra = tmp_path / "train" / "ant" / "extra.png"
    Image.new("RGB", (9, 8)).save(extra)
    with assert_refused("ant/extra.png", "9x8", "image_size"):
        folder("train", str(tmp_path), 0)
    Image.new("RGB", (9, 5)).save(extra)
    with assert_refused("ant/extra.png", "9x5"):
        folder("train", str(tmp_path), 16)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(extra)
    with assert_refused("ant/extra.png", "8 bits"):
        folder("train", str(tmp_path), 0)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for suffix, keep in (("png", 0.5), ("jpg", 0.5), ("png", 0.001)):
        extra.unlink(missing_ok=True)
        extra = extra.with_suffix(f".{suffix}")
        Image.fromarray(noise).save(extra)
        data = extra.read_bytes()
        extra.write_bytes(data[: int(len(data) * keep)])
        with assert_refused(f"ant/extra.{suffix}", "cannot be decoded"):
            folder("train", str(tmp_path), 8)
