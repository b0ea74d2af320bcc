"""A user's mistake gets one line, exit status 2, and leaves nothing behind."""

import numpy as np
import pytest

from tests import runs
from tests.runs import assert_mistake, assert_one_line_mistake

SMOKE = "--config=configs/hybrid.py:smoke"


@pytest.mark.parametrize(
    "arguments, hints",
    [
        ((), ["--config=configs/hybrid.py"]),
        (("--config=configs/hybird.py",), ["hybird", "configs/hybrid.py"]),
        (("--config=configs/hybrid.py:cifar",), ["cifar10", "smoke"]),
        ((SMOKE, "--config.threat.epps=0.1"), ["epps", "eps"]),
        ((SMOKE, "--config.threat.eps=abc"), ["abc"]),
        ((SMOKE, "--config.train.num_steps=1e5"), ["1e5"]),
        ((SMOKE, "--wordkir=x"), ["wordkir", "workdir"]),
        ((SMOKE, "runs/x"), ["runs/x", "--name=value"]),
        ((SMOKE, "--config.task=trian"), ["trian", "train"]),
        ((SMOKE, "--config.threat.eps=8"), ["8 / 255", "0.031373"]),
        ((SMOKE, "--config.threat.eps=-0.1"), ["threat.eps", ">= 0"]),
        ((SMOKE, "--config.threat.norm=l3"), ["l3", "linf", "l2"]),
        ((SMOKE, "--config.model.name=convnett"), ["convnett", "convnet"]),
        ((SMOKE, "--config.data.name=digit"), ["digit", "digits"]),
        (
            (SMOKE, "--config.methods.pgd_at.attack.name=pdg"),
            ["pdg", "pgd"],
        ),
        (
            (SMOKE, "--config.methods.trades.objective.name=tades"),
            ["tades", "trades"],
        ),
        ((SMOKE, "--config.methods.pgd_at.attack_bn=eval"), ["eval", "running"]),
        ((SMOKE, "--config.score.ranking.name=w_nut"), ["w_nut", "w_nat"]),
        ((SMOKE, "--config.score.ranking.combine=add"), ["add", "sum"]),
        ((SMOKE, "--config.reconstruct.order=hardest"), ["hardest", "hard"]),
        ((SMOKE, "--config.reconstruct.method=pgd"), ["pgd", "pgd_at"]),
        ((SMOKE, "--config.generator.sampler=dim"), ["dim", "ddim"]),
        ((SMOKE, "--config.optim.name=sdg"), ["sdg", "sgd"]),
        ((SMOKE, "--config.optim.schedule.name=cos"), ["cos", "cosine"]),
        ((SMOKE, "--config.train.keep=best_val"), ["val_count"]),
        ((SMOKE, "--config.train.batch_size=200"), ["200", "100"]),
        ((SMOKE, "--config.train.accumulate=3"), ["accumulate", "try 15"]),
        (
            ("--config=configs/data_selection.py:smoke", "--config.train.accumulate=2"),
            ["accumulate", "selects out of whole ones"],
        ),
        ((SMOKE, "--config.num_devices=64"), ["64", "num_devices"]),
        ((SMOKE, "--config.data.train_limit=5"), ["train_limit"]),
        ((SMOKE, "--config.augment.smoothing_scope=real"), ["real", "generated"]),
        ((SMOKE, "--config.eval.attacks.pgd.loss=ce"), ["ce", "cross_entropy"]),
        ((SMOKE, "--config.model.mean=(0.1,0.2)"), ["model.mean"]),
        (
            (SMOKE, "--config.methods.trades.attack.start=none"),
            ["methods.trades", "gaussian"],
        ),
        (
            (SMOKE, "--config.methods.standard.attack.name=fgsm"),
            ["nothing to maximise", "cross_entropy"],
        ),
        ((SMOKE, "--config.data.classes=('1','eleven')"), ["eleven"]),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, tuple) else "",
)
def test_a_mistake_gets_one_line(tmp_path, arguments, hints):
    assert_one_line_mistake(tmp_path / "run", arguments, *hints)


@pytest.mark.parametrize(
    "change, hints",
    (
        ("budgets=(1.5,)", ["budgets", "between 0 and 1"]),
        ("budgets=(0.01,)", ["larger than the 1 images"]),
        ("rules=('stps',)", ["stps", "steps"]),
        ("method=pgd_a", ["pgd_a", "pgd_at"]),
        ("choices.grand_mid.order=mild", ["mild", "mid"]),
        ("choices.stability.tracker=stable", ["stable", "stability"]),
        ("choices.stability.on=dirty", ["dirty", "clean", "adversarial"]),
        ("choices.before.select.look=strat", ["strat", "start"]),
        ("look_every_steps=0", ["look_every_steps"]),
        ("ranking_steps=0", ["ranking_steps"]),
        ("autoattack=standart", ["standart", "standard"]),
    ),
)
def test_a_mistake_in_a_comparison_gets_one_line(tmp_path, change, hints):
    arguments = ("--config=configs/compare.py:smoke", f"--config.comparison.{change}")
    assert_one_line_mistake(tmp_path / "run", arguments, *hints)


def images(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), np.uint8)


LABELS = np.arange(40) % 10
BAD_FILES = {
    "float images": ({"image": images() / 255.0, "label": LABELS}, ["uint8", "[0,1]"]),
    "nan": ({"image": np.full((40, 8, 8, 1), np.nan), "label": LABELS}, ["NaN"]),
    "channels first": (
        {"image": images().transpose(0, 3, 1, 2), "label": LABELS},
        ["transpose"],
    ),
    "label too large": ({"image": images(), "label": LABELS - 1}, ["-1"]),
    "one class": ({"image": images(), "label": LABELS * 0}, ["two classes"]),
    "empty": ({"image": images(0), "label": LABELS[:0]}, ["empty"]),
    "label count": ({"image": images(), "label": LABELS[:30]}, ["30"]),
    "no label": ({"image": images()}, ["label"]),
}


def of_file(kind, path):
    """The options that name a file as the data or as the pool."""
    return (SMOKE, f"--config.{kind}.name=npz", f"--config.{kind}.path={path}")


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_get_one_line(tmp_path, kind):
    arrays, hints = BAD_FILES[kind]
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", **arrays)
    assert_one_line_mistake(tmp_path / "run", of_file("data", tmp_path), *hints)


def test_missing_data_says_where_it_looked(tmp_path):
    arguments = of_file("data", tmp_path / "nowhere")
    assert_one_line_mistake(tmp_path / "run", arguments, "nowhere")


def test_a_pool_of_another_shape_is_refused(tmp_path):
    pool = tmp_path / "pool.npz"
    np.savez(pool, image=images().repeat(2, axis=1), label=LABELS)
    assert_one_line_mistake(tmp_path / "run", of_file("generated", pool), "same shape")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    ended = runs.call(SMOKE, f"--workdir={tmp_path}")
    assert_mistake(ended, "not a run directory")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_diverging_run_stops_and_names_the_step(tmp_path):
    ended = runs.call(
        "--config=configs/adversarial.py:smoke",
        "--config.optim.learning_rate=1e30",
        "--config.compare=('standard',)",
        f"--workdir={tmp_path / 'run'}",
    )
    assert_mistake(ended, "not finite at step", "learning_rate")


def damage(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def test_damaged_checkpoints_are_passed_over_then_refused(smoke, tmp_path):
    workdir = runs.copied(smoke, tmp_path)
    stage = workdir / "checkpoints" / "seed0" / "standard-original"
    results = workdir / "results.json"
    results.unlink()
    damage(max(stage.iterdir(), key=lambda p: int(p.name)))
    runs.run(workdir, SMOKE)
    assert results.read_text()
    assert "resuming" in (workdir / "log.txt").read_text()
    damage(stage)
    results.unlink()
    ended = runs.call(SMOKE, f"--workdir={workdir}")
    assert_mistake(ended, "no checkpoint in", "standard-original")
