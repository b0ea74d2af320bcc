"""Every script starts a real group of processes, which does what one process does."""

import os
import socket

import yaml

from jaxrobust.main import EXIT_STOPPED, EXIT_USER
from tests.helpers import ROOT
from tests.launch import clusters
from tests.launch.clusters import CONFIG, assert_group_of_two


def test_processes(alone, tmp_path):
    workdir = tmp_path / "run"
    command = ["launch/processes.sh", "2", *CONFIG, f"--workdir={workdir}"]
    ended = clusters.run(command)
    assert ended.status == 0, ended.stderr[-3000:]
    assert_group_of_two(workdir, alone)


def free_job() -> str:
    """A job number whose port, as JAX derives it from the number, is free."""
    for number in range(os.getpid(), os.getpid() + 4096):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 61440 + number % 4096)):
                return str(number)
    raise AssertionError("every port is taken")


def test_slurm(alone, tmp_path):
    workdir = tmp_path / "run"
    command = ["bash", "launch/slurm.sbatch", *CONFIG, f"--workdir={workdir}"]
    ended = clusters.run(command, SLURM_JOB_ID=free_job())
    assert ended.status == 0, ended.stderr[-3000:]
    assert_group_of_two(workdir, alone)


def test_skypilot(alone, tmp_path):
    workdir = tmp_path / "run"
    task = yaml.safe_load((ROOT / "launch/sky.yaml").read_text())
    assert task["num_nodes"] == 2
    arguments = " ".join([*CONFIG, f"--workdir={workdir}"])
    given = {**task["envs"], "ARGS": arguments, "PORT": clusters.free_port()}
    node = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2"}
    clusters.run_group(
        [
            (["bash", "-c", task["run"]], {**given, **node, "SKYPILOT_NODE_RANK": rank})
            for rank in ("0", "1")
        ]
    )
    assert_group_of_two(workdir, alone)


def job() -> tuple[dict, dict]:
    """The service and the job of k8s_job.yaml."""
    text = (ROOT / "launch/k8s_job.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    return service, job


def test_kubernetes(alone, tmp_path):
    workdir = tmp_path / "run"
    spec = job()[1]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    given["COORDINATOR"] = f"127.0.0.1:{clusters.free_port()}"
    command = [*container["command"], *CONFIG, f"--workdir={workdir}"]
    clusters.run_group(
        [
            (command, {**given, "JOB_COMPLETION_INDEX": str(index)})
            for index in range(spec["completions"])
        ]
    )
    assert_group_of_two(workdir, alone)


def test_kubernetes_pods_find_the_first():
    """An indexed job calls its pods <job>-<index>; a headless service with the name of
    their subdomain gives them addresses."""
    service, whole = job()
    name, spec = whole["metadata"]["name"], whole["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    port = container["ports"][0]["containerPort"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(given["NUM_PROCESSES"])
    assert given["COORDINATOR"] == f"{name}-0.{pod['subdomain']}:{port}"
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}


def test_kubernetes_tells_mistakes_from_stops():
    _, whole = job()
    spec = whole["spec"]
    rules = spec["podFailurePolicy"]["rules"]
    codes = {
        value: rule["action"]
        for rule in rules
        if "onExitCodes" in rule
        for value in rule["onExitCodes"]["values"]
    }
    assert codes == {EXIT_USER: "FailJob", EXIT_STOPPED: "Ignore"}
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "only then Kubernetes heeds the rules"
    names = {rule["onExitCodes"]["containerName"] for rule in rules[:2]}
    assert names == {container["name"] for container in pod["containers"]}


def test_every_file_is_explained():
    text = (ROOT / "launch/README.md").read_text()
    names = {path.name for path in (ROOT / "launch").iterdir() if path.is_file()}
    assert {name for name in names if f"`{name}`" not in text} <= {"README.md"}
