"""A run directory belongs to one configuration and survives a kill at any moment."""

import json
import logging

import pytest

from jaxrobust import files
from jaxrobust.errors import UserError
from jaxrobust.workdir import Workdir

CONFIG = {
    "task": "train",
    "model": {"name": "convnet", "widths": (8, 16)},
    "train": {"seeds": [0, 1], "ema_decay": 0.9},
}


@pytest.fixture
def opened(tmp_path):
    """(config) -> the `Workdir` of one directory; its log file is closed afterwards."""
    yield lambda config=CONFIG: Workdir(str(tmp_path / "run"), config)
    package = logging.getLogger("jaxrobust")
    for handler in list(package.handlers):
        package.removeHandler(handler)
        handler.close()


def changed(**train):
    return CONFIG | {"train": CONFIG["train"] | train}


def refusal(opened, config=CONFIG):
    with pytest.raises(UserError) as caught:
        opened(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_configuration_continues(opened):
    first = opened()
    first.log_metrics("fit", 1, {"loss": 0.5})
    assert opened().config_sha256 == first.config_sha256
    assert first.checkpoints.is_dir()
    assert len((first.path / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "config,names",
    (
        (changed(ema_decay=0.5), "train.ema_decay"),
        (changed(seeds=[0]), "train.seeds"),
        (changed(extra=1), "train.extra"),
        (CONFIG | {"train": None}, "train"),
        ({k: v for k, v in CONFIG.items() if k != "model"}, "model"),
        (CONFIG | {"task": "x", "new": {"a": 1}}, "new, task"),
    ),
)
def test_another_configuration_is_told_what_differs(opened, config, names):
    before = (opened().path / "config.json").read_bytes()
    assert f"(differs in {names})" in refusal(opened, config)
    assert (opened().path / "config.json").read_bytes() == before


def test_the_fingerprint_follows_the_configuration(opened, tmp_path):
    other = Workdir(str(tmp_path / "other"), changed(ema_decay=0.5))
    assert opened().config_sha256 != other.config_sha256
    reordered = dict(reversed(CONFIG.items()))
    same = Workdir(str(tmp_path / "same"), reordered)
    assert opened().config_sha256 == same.config_sha256


def test_a_directory_of_something_else_is_left_alone(opened, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("dear")
    assert "not a run directory" in refusal(opened)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_file_is_no_directory(opened, tmp_path):
    (tmp_path / "run").write_text("dear")
    assert "is a file" in refusal(opened)


def test_a_damaged_config_is_one_line(opened):
    path = opened().path / "config.json"
    path.write_text(path.read_text()[:20])
    assert "config.json cannot be read" in refusal(opened)


def test_an_empty_directory_will_do(opened, tmp_path):
    (tmp_path / "run").mkdir()
    assert (opened().path / "config.json").exists()


def test_a_kill_while_the_directory_is_made_does_not_lock_it(opened, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        opened()
    monkeypatch.undo()
    assert json.loads((opened().path / "config.json").read_text())["task"] == "train"


def test_metrics_are_one_object_a_line_and_nan_is_visible(opened):
    workdir = opened()
    workdir.log_metrics("fit", 5, {"loss": float("nan"), "acc": 0.5})
    workdir.log_metrics("fit", 6, {"loss": 0.25})
    lines = (workdir.path / "metrics.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["loss"] != first["loss"] and first["acc"] == 0.5
    assert second == {"stage": "fit", "step": 6, "loss": 0.25}


@pytest.mark.parametrize("tail", ('{"stage": "fit", "st', ""))
def test_a_half_written_line_is_dropped(opened, tail):
    workdir = opened()
    workdir.log_metrics("fit", 1, {"loss": 0.5})
    with open(workdir.path / "metrics.jsonl", "a") as file:
        file.write(tail)
    opened().log_metrics("fit", 2, {"loss": 0.4})
    lines = (workdir.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_a_single_half_line_leaves_an_empty_file(opened):
    path = opened().path / "metrics.jsonl"
    path.write_text('{"stage"')
    opened()
    assert path.read_text() == ""


def test_results_come_back_or_are_empty(opened):
    workdir = opened()
    assert workdir.read_results() == {}
    workdir.write("results.json", {"rows": [{"name": "a"}]})
    assert workdir.read_results() == {"rows": [{"name": "a"}]}


def test_log_lines_go_to_the_newest_run_once(opened, tmp_path):
    first = opened()
    opened()
    logging.getLogger("jaxrobust.tasks").warning("hello")
    assert (first.path / "log.txt").read_text().count("hello") == 1
    Workdir(str(tmp_path / "second"), CONFIG)
    logging.getLogger("jaxrobust.tasks").warning("again")
    assert "again" not in (first.path / "log.txt").read_text()
    assert "again" in (tmp_path / "second" / "log.txt").read_text()
