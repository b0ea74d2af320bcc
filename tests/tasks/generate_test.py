"""The pool on disk: made once, the same again in any order, and honest about itself."""

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs import generate as recipe
from jaxrobust import data, sharding
from jaxrobust.errors import UserError
from jaxrobust.tasks import sampling
from jaxrobust.tasks.generate import build_denoiser, check_conditional, generate
from jaxrobust.tasks.pool_facts import pool_facts
from jaxrobust.tree import count, plain
from tests import helpers, runs

DOCS = helpers.ROOT / "docs" / "generate.md"
NAMES = tuple(str(k) for k in range(10))


def smoke_config(**labels):
    config = recipe.get_config("smoke")
    config.generator.labels.update(labels)
    return plain(config)


@pytest.fixture(scope="module")
def sampled(finished) -> Path:
    return finished("generate")


@pytest.fixture(scope="module")
def unconditional(finished) -> Path:
    return finished("generate", "--config.generator.labels.conditional=False")


def shards(workdir: Path) -> dict[str, bytes]:
    paths = sorted((workdir / "generated").glob("shard-*.npz"))
    return {path.name: path.read_bytes() for path in paths}


def load(folder: Path, class_names=()):
    return data.load_split(
        name="npz",
        split="train",
        path=str(folder),
        dataset="",
        image_size=0,
        classes=(),
        class_names=class_names,
        limit=0,
        seed=0,
        provenance="",
        needs_labels=True,
    )


def test_every_shard_says_which_images_it_holds(sampled):
    index, label = [], []
    for path in sorted((sampled / "generated").glob("shard-*.npz")):
        with np.load(path) as shard:
            assert len(shard["image"]) == len(shard["index"]) == len(shard["label"])
            assert shard["seed"] == 0
            index.append(shard["index"])
            label.append(shard["label"])
    np.testing.assert_array_equal(np.concatenate(index), np.arange(120))
    np.testing.assert_array_equal(np.concatenate(label), np.arange(120) % 10)
    assert len(shards(sampled)) == 3, "120 images in shards of 50"
    assert len(load(sampled / "generated", NAMES)) == 120


@pytest.mark.parametrize("lost", [(0,), (1, 2), (0, 1, 2)], ids=str)
def test_lost_shards_come_back_byte_for_byte(sampled, tmp_path, lost):
    before = shards(sampled)
    workdir = runs.copied(sampled, tmp_path)
    for number in lost:
        (workdir / "generated" / f"shard-{number:05d}.npz").unlink()
        # What a kill inside of a shard leaves: a file that nobody reads.
        half = workdir / "generated" / f".shard-{number:05d}.npz.partial"
        half.write_bytes(b"half")
    generate(smoke_config(), str(workdir))
    assert shards(workdir) == before


def test_a_finished_pool_is_not_sampled_again(sampled, tmp_path, monkeypatch):
    workdir = runs.copied(sampled, tmp_path)
    shutil.rmtree(workdir / "checkpoints")
    monkeypatch.setattr(sampling, "make_sampler", lambda *_: 1 / 0)
    generate(smoke_config(), str(workdir))
    assert shards(workdir) == shards(sampled)


def test_the_manifest_says_where_the_pool_comes_from(sampled):
    facts = json.loads((sampled / "generated" / "manifest.json").read_text())
    card = runs.card(sampled)
    assert facts["count"] == 120 and facts["seed"] == 0
    assert set(facts["per_class"].values()) == {12}
    assert facts["trained_on"]["sha256"] == card["data"]["sha256"]
    assert facts["trained_on"]["images"] == card["data"]["train"] == 100
    assert facts["generator"] == json.loads(json.dumps(smoke_config()["generator"]))
    pool = load(sampled / "generated", NAMES)
    assert facts["pool_sha256"] == pool.fingerprint()
    assert card["checks"][0]["name"] == "no test image in the generated pool"


@pytest.mark.parametrize("name", ["samples.png", "neighbours.png"])
def test_pictures_show_something(sampled, unconditional, name):
    for workdir in (sampled, unconditional):
        with Image.open(workdir / "figures" / name) as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("L")).std() > 10


def test_an_unconditional_pool_waits_for_its_labels(unconditional):
    with np.load(unconditional / "generated" / "shard-00000.npz") as shard:
        assert set(shard.files) == {"image", "index", "seed"}
    with pytest.raises(UserError, match="holds .* but no 'label'"):
        load(unconditional / "generated")
    facts = json.loads((unconditional / "generated" / "manifest.json").read_text())
    assert facts["per_class"] is None
    assert facts["quality"]["memorisation_ratio"] > 0
    assert "label_agreement" not in facts["quality"]


@dataclass
class Origin:
    """Digits and a generator, as the tasks hand them over."""

    config: dict
    mesh: jax.sharding.Mesh
    splits: data.Splits


def origin(**labels) -> Origin:
    config = smoke_config(**labels)
    splits = data.load_splits(**config["data"])
    return Origin(config, sharding.make_mesh(1), splits)


def test_nothing_trains_on_an_unconditional_pool():
    with pytest.raises(UserError, match="cannot be trained on"):
        check_conditional(origin(conditional=False))


def weights(model, shape):
    """With no zero among them, so that every label is seen."""
    one = (np.zeros((1, *shape)), np.zeros(1), np.zeros(1, np.int32))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *one)["params"]
    draw = np.random.default_rng(0).normal
    return jax.tree.map(lambda s: draw(size=s.shape, scale=0.2), shapes)


@cache
def sampler(conditional, guidance):
    """Index and label to u8 images, by a network of random weights."""
    where = origin(conditional=conditional, guidance=guidance)
    model = build_denoiser(where.config["generator"], 10)
    sample = sampling.make_sampler(where, model)
    params = weights(model, where.splits.image_shape)

    def draw(index, label):
        index, label = np.asarray(index, np.int32), np.asarray(label, np.int32)
        return np.asarray(sample(params, jax.random.key(0), index, label))

    return draw


def test_an_image_is_a_function_of_its_index_and_label_alone():
    draw = sampler(True, 1.0)
    whole = draw(np.arange(4), np.arange(4))
    np.testing.assert_array_equal(draw([3, 1], [3, 1]), whole[[3, 1]])
    assert np.any(draw([3, 1], [2, 1])[0] != whole[3])


def test_guidance_changes_images():
    index = np.arange(4)
    assert np.any(sampler(True, 3.0)(index, index) != sampler(True, 1.0)(index, index))


def test_unconditional_images_ignore_the_label():
    draw, index = sampler(False, 1.0), np.arange(4)
    np.testing.assert_array_equal(draw(index, index), draw(index, index + 1))


def test_guidance_needs_labels_that_were_hidden():
    spec = smoke_config(drop_percent=0.0, guidance=2.0)["generator"]
    with pytest.raises(UserError, match="drop_percent"):
        build_denoiser(spec, 10)


@pytest.mark.parametrize(
    ("option", "hints"),
    [
        ("generator.schedule.name=edn", ["edn", "edm"]),
        ("generator.prediction.sigma_data=0.0", ["sigma_data"]),
        ("generator.sampler_steps.sigma_max=1e4", ["sigma_max", "148"]),
        ("generator.sampler_steps.rho=0.0", ["rho"]),
        ("generator.denoiser.name=mpl", ["mpl", "mlp"]),
        ("generator.labels.guidence=2.0", ["guidence", "guidance"]),
    ],
)
def test_a_mistake_gets_one_line_and_writes_nothing(tmp_path, option, hints):
    arguments = ("--config=configs/generate.py:smoke", f"--config.{option}")
    runs.assert_one_line_mistake(tmp_path / "run", arguments, *hints)


def parameters(variant: str, shape: tuple[int, ...]) -> int:
    spec = plain(recipe.get_config(variant).generator)
    one = (np.zeros((1, *shape)), np.zeros(1), np.zeros(1, np.int32))
    model = build_denoiser(spec, 10)
    return count(jax.eval_shape(model.init, jax.random.key(0), *one))


@pytest.mark.parametrize(
    ("variant", "shape"), [("cifar10", (32, 32, 3)), ("small_cifar10", (16, 16, 3))]
)
def test_the_page_states_the_size_of_the_network(variant, shape):
    assert f"{parameters(variant, shape):,}" in DOCS.read_text()


def test_ddpm_is_a_setting(tmp_path):
    config = smoke_config()
    ddpm = {"schedule": "linear", "prediction": "epsilon", "sampler_steps": 4}
    config["generator"].update(ddpm, sampler="ddim")
    times = sampling.build_diffusion(config["generator"]).times
    assert times.tolist() == [1.0, 0.75, 0.5, 0.25]
    generate(config, str(tmp_path / "run"))
    assert load(tmp_path / "run" / "generated", NAMES).image.shape == (120, 8, 8, 1)


def test_facts_count_classes_and_copies():
    where = origin()
    pool = where.splits.train
    facts = pool_facts(where, pool, seconds=1.234)
    assert facts["quality"]["memorisation_ratio"] == 0
    assert facts["quality"]["copy_share"] == 1
    assert sum(facts["per_class"].values()) == len(pool) and facts["seconds"] == 1.2
