"""Signals, deaths and exit statuses, with lines of bash in the program's place."""

import os
import signal
import time

from jaxrobust.main import EXIT_STOPPED, EXIT_USER
from tests.launch import clusters

RANK = '[[ "$*" == *--process_id=0* ]] && rank=0 || rank=1\n'
STOPS = "trap 'kill $! ; exit 143' TERM; sleep 60 & touch ready$rank; wait"
"""Saves and stops when it is asked to."""


def processes(folder, body: str, **environment: str):
    """processes.sh with two programs that do `body` in `folder`, knowing their
    `rank`."""
    path = clusters.stub_path(folder, f"{RANK}cd {folder}\n{body}")
    return clusters.start(["launch/processes.sh", "2"], PATH=path, **environment)


def wait_for(*files) -> None:
    deadline = time.monotonic() + 60
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, files
        time.sleep(0.02)


def test_processes_end_well_when_all_do(tmp_path):
    process = processes(tmp_path, "touch done$rank")
    assert clusters.end(process).status == 0
    assert (tmp_path / "done0").exists() and (tmp_path / "done1").exists()


def test_sigterm_reaches_every_process(tmp_path):
    process = processes(tmp_path, STOPS.replace("exit", "touch saved$rank; exit"))
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    process.send_signal(signal.SIGTERM)
    assert clusters.end(process, timeout=30).status == EXIT_STOPPED
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()


def test_the_first_failure_stops_the_rest_and_is_the_status(tmp_path):
    body = "until [[ -e ready0 ]]; do sleep 0.02; done; exit 3"
    body = f"if ((rank)); then {body}; fi; {STOPS}"
    assert clusters.end(processes(tmp_path, body), timeout=30).status == 3


def test_a_survivor_that_hangs_is_killed(tmp_path):
    hangs = "trap '' TERM; touch ready0; while true; do sleep 0.1; done"
    body = f"if ((rank)); then kill -KILL $$; fi; {hangs}"
    process = processes(tmp_path, body, GRACE="1")
    assert clusters.end(process, timeout=30).status == 128 + signal.SIGKILL


def slurm(folder, body: str, **environment: str):
    """The end of slurm.sbatch whose program is `body`, and what scontrol was asked."""
    asked = folder / "asked"
    asked.touch()
    ended = clusters.run(
        ["bash", "launch/slurm.sbatch"],
        PATH=clusters.stub_path(folder, body),
        SLURM_JOB_ID="7",
        FAKE_SCONTROL=str(asked),
        **environment,
    )
    return ended, asked.read_text()


def test_a_slurm_job_that_stopped_queues_again(tmp_path):
    ended, asked = slurm(tmp_path, "exit 143")
    assert ended.status == EXIT_STOPPED and asked == "requeue 7\n"


def test_a_slurm_job_that_failed_does_not(tmp_path):
    ended, asked = slurm(tmp_path, "exit 2")
    assert ended.status == EXIT_USER and asked == ""


def test_a_slurm_task_owns_all_gpus_of_its_node(tmp_path):
    body = 'echo "${JAX_LOCAL_DEVICE_IDS:-jax decides}"'
    for tasks, given in (("1", "0,1,2,3"), ("4", "jax decides")):
        folder = tmp_path / tasks
        folder.mkdir()
        gpus = {"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": tasks}
        ended, _ = slurm(folder, body, **gpus)
        assert ended.stdout == f"{given}\n" * 2, ended.stderr


def test_a_host_waits_for_the_run_that_a_lost_connection_left(tmp_path):
    path = clusters.stub_path(tmp_path, f"cd {tmp_path}; echo begin; sleep 1; echo end")
    given = {"FAKE_ENDPOINTS": "10.0.0.1,10.0.0.2", "HOME": str(tmp_path), "PATH": path}
    log = tmp_path / "log"
    command = ["bash", "-c", f"launch/tpu_host.sh >> {log}"]
    twice = [clusters.start(command, FAKE_HOST="0", **given) for _ in range(2)]
    assert [clusters.end(host, timeout=60).status for host in twice] == [0, 0]
    assert log.read_text().split() == ["begin", "end"] * 2


def test_hosts_read_both_kinds_of_metadata(tmp_path):
    path = clusters.stub_path(tmp_path, 'echo "$@"')
    given = {"HOME": str(tmp_path), "PATH": path, "FAKE_HOST": "1", "PORT": "8482"}
    expected = "--coordinator=10.0.0.1:8482 --num_processes=2 --process_id=1 --a=b c"
    for endpoints in ("10.0.0.1,10.0.0.2", "x:0:10.0.0.1,y:1:10.0.0.2"):
        command = ["launch/tpu_host.sh", "--a=b c"]
        ended = clusters.run(command, FAKE_ENDPOINTS=endpoints, **given)
        assert ended.stdout == f"-m jaxrobust.main {expected}{os.linesep}", ended.stderr
