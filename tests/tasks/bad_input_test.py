"""A user's mistake gets one line, exit status 2, and leaves nothing behind."""

import shutil

import numpy as np
import pytest

from jaxrobust.main import main

SMOKE = "--config=configs/hybrid.py:smoke"


def refuse(capsys, workdir, *arguments: str) -> str:
    """The one line that the program says about `arguments`."""
    status = main(["jaxrobust", f"--workdir={workdir}", *arguments])
    errors = capsys.readouterr().err
    lines = [line for line in errors.splitlines() if line.startswith("jaxrobust: ")]
    assert status == 2, errors
    assert len(lines) == 1 and "Traceback" not in errors, errors
    assert not workdir.exists(), "something was written"
    return lines[0]


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
def test_a_mistake_gets_one_line(capsys, tmp_path, arguments, hints):
    said = refuse(capsys, tmp_path / "run", *arguments)
    for hint in hints:
        assert hint in said


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
def test_a_mistake_in_a_comparison_gets_one_line(capsys, tmp_path, change, hints):
    recipe = "--config=configs/compare.py:smoke"
    said = refuse(capsys, tmp_path / "run", recipe, f"--config.comparison.{change}")
    for hint in hints:
        assert hint in said


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


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_get_one_line(capsys, tmp_path, kind):
    arrays, hints = BAD_FILES[kind]
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", **arrays)
    said = refuse(
        capsys,
        tmp_path / "run",
        SMOKE,
        "--config.data.name=npz",
        f"--config.data.path={tmp_path}",
    )
    for hint in hints:
        assert hint in said


def test_missing_data_says_where_it_looked(capsys, tmp_path):
    said = refuse(
        capsys,
        tmp_path / "run",
        SMOKE,
        "--config.data.name=npz",
        f"--config.data.path={tmp_path / 'nowhere'}",
    )
    assert "nowhere" in said


def test_a_pool_of_another_shape_is_refused(capsys, tmp_path):
    np.savez(tmp_path / "pool.npz", image=images().repeat(2, axis=1), label=LABELS)
    said = refuse(
        capsys,
        tmp_path / "run",
        SMOKE,
        "--config.generated.name=npz",
        f"--config.generated.path={tmp_path / 'pool.npz'}",
    )
    assert "same shape" in said


def test_a_folder_that_is_no_run_is_refused(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    status = main(["jaxrobust", f"--workdir={tmp_path}", SMOKE])
    assert status == 2 and "not a run directory" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_diverging_run_stops_and_names_the_step(capsys, tmp_path):
    arguments = (
        "--config=configs/adversarial.py:smoke",
        "--config.optim.learning_rate=1e30",
        "--config.compare=('standard',)",
    )
    status = main(["jaxrobust", f"--workdir={tmp_path / 'run'}", *arguments])
    said = capsys.readouterr().err
    assert status == 2 and "not finite at step" in said and "learning_rate" in said


def test_damaged_checkpoints_are_passed_over_then_refused(capsys, smoke, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(smoke, workdir)
    stage = workdir / "checkpoints" / "seed0" / "standard-original"
    results = workdir / "results.json"
    results.unlink()
    newest = max(stage.iterdir(), key=lambda p: int(p.name))
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    arguments = [f"--workdir={workdir}", "--config=configs/hybrid.py:smoke"]
    assert main(["jaxrobust", *arguments]) == 0
    assert results.read_text()
    for path in stage.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    results.unlink()
    capsys.readouterr()
    assert main(["jaxrobust", *arguments]) == 2
    said = capsys.readouterr().err
    assert "no checkpoint in" in said and "standard-original" in said
