"""The proxy chain: generated, labelled, filtered, mixed, explained, certified."""

import json

import numpy as np
import pytest
from PIL import Image

from tests import runs
from tests.runs import assert_not_redone, assert_one_line_mistake

RECIPE = "--config=configs/proxy.py:smoke"


@pytest.fixture(scope="module")
def proxied(finished):
    return finished("proxy")


@pytest.fixture(scope="module")
def rows(proxied):
    return runs.rows(proxied)


def test_every_method_is_trained_on_both(rows):
    assert set(rows) == {
        f"{method} / {kind}"
        for method in ("pgd_at", "stability")
        for kind in ("original", "mixed")
    }
    for name, row in rows.items():
        mixed = name.endswith("mixed")
        assert row["generated_share"] == 0.5 * mixed
        assert row["baseline"] != mixed
        # 8 steps of 16 images out of 100
        assert row["real_passes"] == pytest.approx(8 * 16 / 100 * (0.5 if mixed else 1))


def test_networks_trained_on_noise_are_certified(rows):
    for name, row in rows.items():
        assert ("certified_acc" in row) == name.startswith("stability")


def test_labels_say_what_was_kept_and_why(proxied):
    with np.load(proxied / "selections" / "pool-labels.npz") as file:
        columns = dict(file)
    same = columns["label1"] == columns["label2"]
    sure = np.maximum(columns["confidence1"], columns["confidence2"]) >= 0.9
    np.testing.assert_array_equal(columns["kept"], same | sure)
    facts = json.loads((proxied / "selections" / "pool-labels.json").read_text())
    assert facts["kept"] == columns["kept"].sum() < facts["candidates"] == 128
    with np.load(proxied / "selections" / "pool-labels.images.npz") as file:
        assert len(file["image"]) == min(24, 128 - facts["kept"])


def test_proxy_json_bounds_each_attacked_network(proxied):
    facts = json.loads((proxied / "proxy.json").read_text())
    assert {row["network"] for row in facts["networks"]} == {
        "pgd_at / original",
        "pgd_at / mixed",
    }
    assert facts["spaces"][0]["cwd"] > 0
    assert [eps for eps, _ in facts["arc"]["points"]] == pytest.approx([0.075, 0.15])
    assert all(0 <= accuracy <= 1 for _, accuracy in facts["arc"]["points"])


def test_a_finished_run_is_not_redone(proxied, tmp_path):
    assert_not_redone(proxied, tmp_path, RECIPE)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.mix.generated_percent=0.0", "between 0 and 100"),
        ("--config.mix.weighting=size", "count"),
        ("--config.label.count=1", "needs 2 labelers, not 1"),
        ("--config.label.use=guess", "given"),
        ("--config.label.filter.threshold=9.0", "is not in 0..1"),
        ("--config.explain.arc.ratios=(1.0,0.5)", "that increase"),
    ],
)
def test_mistakes_get_one_line(flag, words, tmp_path):
    assert_one_line_mistake(tmp_path / "run", (RECIPE, flag), words)


def test_a_pool_without_labels_is_labelled_by_a_network(tmp_path):
    workdir = tmp_path / "run"
    flags = ("compare=('pgd_at',)", "label.use=predicted", "explain.arc.ratios=()")
    flags += ("label.num_steps=80", "label.filter.threshold=0.0")
    flags += ("generator.train.num_steps=60", "generator.labels.conditional=False")
    runs.run(workdir, RECIPE, *(f"--config.{flag}" for flag in flags))
    with np.load(workdir / "selections" / "pool-labels.npz") as file:
        np.testing.assert_array_equal(file["label"], file["label1"])
        assert (file["given"] == -1).all()


HARDEN = (
    "--config=configs/harden.py",
    "--config.data.image_size=16",
    "--config.model.widths=(8,8)",
    "--config.train.num_steps=4",
    "--config.train.chunk_steps=2",
    "--config.train.batch_size=8",
    "--config.eval.batch_size=12",
    "--config.seeds=(0,)",
    "--config.methods.pgd_at.attack.num_steps=2",
    "--config.generator.train.num_steps=2",
    "--config.generator.train.batch_size=8",
    "--config.generator.denoiser.widths=(8,8)",
    "--config.generator.sampler_steps.num_steps=2",
    "--config.generator.count=24",
    "--config.generator.shard_size=24",
    "--config.label.num_steps=2",
    "--config.label.batch_size=24",
    "--config.label.filter.threshold=0.0",
    "--config.explain.limit_per_class=3",
    "--config.explain.num_halvings=1",
    "--config.explain.attack.num_steps=1",
    "--config.certify.n0=5",
    "--config.certify.n=20",
    "--config.certify.noise_batch=25",
)
"""The recipe for a user's folder, at a size where only the plumbing shows."""


def write_folder(root):
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog", "ship"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (20, 20, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def test_a_folder_of_own_pictures_goes_through_the_whole_chain(tmp_path):
    write_folder(tmp_path / "pictures")
    workdir = tmp_path / "run"
    runs.run(workdir, *HARDEN, f"--config.data.path={tmp_path / 'pictures'}")
    page = (workdir / "report.html").read_text()
    for words in ("Labels of the generated images", "cat", "Certified"):
        assert words in page


def test_harden_asks_for_the_folder(tmp_path):
    assert_one_line_mistake(tmp_path / "run", HARDEN[:1], "path")
