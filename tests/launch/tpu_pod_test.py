"""tpu_pod.sh minds a slice of two hosts, which a fake gcloud has and takes away."""

import shlex
from pathlib import Path

import pytest

from jaxrobust.main import EXIT_USER
from tests import runs
from tests.helpers import ROOT
from tests.launch import clusters
from tests.launch.clusters import CONFIG, assert_group_of_two

TITLE = "two words, and 'quotes' $HOME"


@pytest.fixture
def tpu(tmp_path) -> Path:
    """The folder of a slice that does not exist yet."""
    folder = tmp_path / "tpu"
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "jaxrobust").symlink_to(ROOT)
    return folder


def pod(tpu: Path, *arguments: str, **environment: str) -> runs.Ended:
    """tpu_pod.sh, to its end."""
    given = {
        "TPU": "slice",
        "ZONE": "zone",
        "CREATE": "--accelerator-type=v4-16 --spot",
        "PAUSE": "0.1",
        "FAKE_TPU": str(tpu),
        "FAKE_ENDPOINTS": "127.0.0.1,127.0.0.2",
        "PORT": clusters.free_port(),
        **environment,
    }
    return clusters.run(["launch/tpu_pod.sh", *arguments], **given)


def calls(tpu: Path) -> list[str]:
    """What gcloud was told to do to the slice, in order."""
    lines = (tpu / "calls").read_text().splitlines()
    return [shlex.split(line, posix=False)[0] for line in lines]


def test_a_preempted_slice_is_made_again_and_the_run_goes_on(alone, tpu, tmp_path):
    workdir = tmp_path / "run"
    arguments = (*CONFIG, f"--config.title={TITLE}", f"--workdir={workdir}")
    # Its log appears when the program has begun to listen to signals.
    ended = pod(tpu, *arguments, FAKE_PREEMPT=str(workdir / "log.txt"))
    assert ended.status == 0, ended.stderr[-3000:]
    assert calls(tpu) == ["create", "ssh", "delete", "create", "ssh"]
    assert "slice is PREEMPTED" in ended.stderr
    assert (
        "resuming seed0/pgd_at-original at step 2" in (workdir / "log.txt").read_text()
    )
    assert_group_of_two(workdir, alone)
    assert runs.results(workdir)["title"] == TITLE


def stubbed(tpu: Path, body: str, **environment: str) -> runs.Ended:
    """tpu_pod.sh where the program on the hosts is `body`."""
    path = clusters.stub_path(tpu, body)
    return pod(tpu, PATH=path, **environment)


def test_a_mistake_of_the_user_is_not_repeated(tpu):
    assert stubbed(tpu, "exit 2").status == EXIT_USER
    assert calls(tpu) == ["create", "ssh"]


def test_a_failure_on_a_slice_in_good_health_is_repeated_so_often(tpu):
    assert stubbed(tpu, "exit 7", ATTEMPTS="2").status == 7
    assert calls(tpu) == ["create", "ssh", "ssh"]


def test_every_host_is_set_up_before_every_run(tpu):
    ended = stubbed(tpu, "echo $WHERE", SETUP="export WHERE=here$FAKE_HOST")
    assert ended.status == 0 and sorted(ended.stdout.split()) == ["here0", "here1"]


def test_a_slice_is_made_only_by_who_says_what_kind(tpu):
    ended = stubbed(tpu, "exit 0", CREATE="")
    assert ended.status == 1 and "slice is MISSING" in ended.stderr
    assert not (tpu / "calls").exists()


def test_without_a_name_nothing_is_done(tpu):
    ended = pod(tpu, TPU="")
    assert ended.status == 1 and "set TPU" in ended.stderr
