"""A sweep starts what is not finished, goes past failures, and says what is where."""

import ast
import shutil
import signal
from pathlib import Path

import pytest

from jaxrobust.errors import UserError
from jaxrobust.main import EXIT_USER
from launch import sweep
from launch.grid import make_runs, split_values
from tests.launch import clusters

RECIPE = clusters.CONFIG[0]


@pytest.fixture(autouse=True)
def signals():
    """A sweep catches signals; a signal it misses fails the test, not the session."""
    missed = lambda number, _: pytest.fail(f"nobody caught signal {number}")
    asked = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, missed) for number in asked]
    yield
    for number, handler in zip(asked, before):
        signal.signal(number, handler)


def launcher(folder: Path, body: str) -> str:
    """A program in the place of jaxrobust.main: its last argument is the workdir."""
    program = folder / "launcher"
    lines = f'cd {folder}; echo "$@" >> started; workdir=${{!#}}\n{body}'
    program.write_text(f"#!/usr/bin/env bash\n{lines}\n")
    program.chmod(0o755)
    return str(program)


def started(folder: Path) -> list[str]:
    """What the launcher was called with."""
    path = folder / "started"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    "text",
    ["1,2", "1e-3", "(0,),(1,2)", "('a,b','c'),'d,e'", "{'x': [1,2]},3", "'(',1"],
)
def test_values_are_split_as_python_splits_them(text):
    found = [ast.literal_eval(part) for part in split_values(text)]
    assert found == list(ast.literal_eval(f"[{text}]"))


def test_the_grid_is_every_combination():
    settings = ["train.num_steps=4,6", "seeds=(0,),(1,2)"]
    runs = make_runs([RECIPE, "--config.eval.batch_size=10"], settings, Path("x"))
    assert [str(run.workdir) for run in runs] == [
        "x/num_steps=4,seeds=0",
        "x/num_steps=4,seeds=1-2",
        "x/num_steps=6,seeds=0",
        "x/num_steps=6,seeds=1-2",
    ]
    found = [(run.config["train"]["num_steps"], run.config["seeds"]) for run in runs]
    assert found == [(4, (0,)), (4, (1, 2)), (6, (0,)), (6, (1, 2))]
    assert {run.config["eval"]["batch_size"] for run in runs} == {10}


def test_keys_that_end_alike_are_named_in_full():
    settings = ["train.batch_size=8", "eval.batch_size=5"]
    (run,) = make_runs([RECIPE], settings, Path("x"))
    assert run.workdir.name == "train.batch_size=8,eval.batch_size=5"


@pytest.mark.parametrize(
    "settings",
    [
        ["train.num_step=4"],
        ["train.num_steps"],
        ["train.num_steps=4", "train.num_steps=5"],
        ["seeds=(0,),[0]"],
        ["train.num_steps=four"],
    ],
)
def test_mistakes_are_found_before_any_run(settings):
    with pytest.raises(UserError):
        make_runs([RECIPE], settings, Path("x"))


def test_a_mistake_starts_nothing(tmp_path, capsys):
    given = [RECIPE, "--set", "train.num_step=4", f"--workdir={tmp_path / 'x'}"]
    assert sweep.main([*given, "--", launcher(tmp_path, "")]) == EXIT_USER
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sweep: ") and "num_steps" in line
    assert not started(tmp_path) and not (tmp_path / "x").exists()
    given[2] = "train.num_steps=4"
    assert sweep.main([*given, "--", "no-such-program"]) == EXIT_USER


def test_dry_run_only_says_what_stands_where(tmp_path, capsys):
    given = [RECIPE, "--set", "train.num_steps=4,6", f"--workdir={tmp_path / 'x'}"]
    assert sweep.main([*given, "--dry_run", "--", launcher(tmp_path, "")]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table == [["new", f"{tmp_path}/x/num_steps={n}"] for n in (4, 6)]
    assert not started(tmp_path) and not (tmp_path / "x").exists()


def test_begun_runs_go_on_past_failures_and_finished_ones_stay(alone, tmp_path, capsys):
    folder = tmp_path / "x"
    resumed = folder / "name=digits"
    shutil.copytree(alone, resumed)
    (resumed / "card.json").unlink()
    given = [*clusters.CONFIG, "--set", "data.name=npz,digits", f"--workdir={folder}"]
    assert sweep.main(given) == 1
    table = capsys.readouterr().out.splitlines()[-2:]
    assert table == [
        f"failed (2), see name=npz.out  {folder}/name=npz",
        f"finished                      {resumed}",
    ]
    assert "set its path" in (folder / "name=npz.out").read_text()
    assert (resumed / "results.json").read_bytes() == (
        alone / "results.json"
    ).read_bytes()
    assert sweep.main([*given, "--", launcher(tmp_path, "exit 0")]) == 0
    (again,) = started(tmp_path)
    assert again.endswith(f"--config.data.name=npz --workdir={folder}/name=npz")


def test_a_directory_of_another_configuration_is_not_finished(alone, tmp_path):
    (run,) = make_runs([*clusters.CONFIG], ["train.num_steps=5"], tmp_path)
    shutil.copytree(alone, run.workdir)
    assert sweep.state(run) == "other configuration"
    (same,) = make_runs([*clusters.CONFIG], ["train.num_steps=4"], tmp_path)
    shutil.copytree(alone, same.workdir)
    assert sweep.state(same) == "finished"


def test_jobs_run_at_the_same_time(tmp_path):
    meet = "touch here$PPID$$; for i in {1..500}; do sleep 0.02; set -- here*; "
    meet += "if (($# == 2)); then exit 0; fi; done; exit 1"
    given = [RECIPE, "--set", "train.num_steps=4,6", f"--workdir={tmp_path / 'x'}"]
    assert sweep.main([*given, "--jobs=2", "--", launcher(tmp_path, meet)]) == 0


def test_sigterm_is_passed_on_and_starts_nothing_more(tmp_path, capsys):
    stops = "trap 'kill $!; exit 143' TERM; sleep 60 & kill -TERM $PPID; wait"
    given = [RECIPE, "--set", "train.num_steps=4,6", f"--workdir={tmp_path / 'x'}"]
    assert sweep.main([*given, "--", launcher(tmp_path, stops)]) == 1
    assert len(started(tmp_path)) == 1
    table = capsys.readouterr().out.splitlines()[-2:]
    assert all(line.startswith("stopped") for line in table)
