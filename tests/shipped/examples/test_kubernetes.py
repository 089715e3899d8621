"""examples/kubernetes: the parts of the manifest fit together, and to the project (fields: test_kuberay_schema.py)."""

from __future__ import annotations

import copy
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from mars.config.command_line import parse_command_line
from mars.config.load import load_config

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "examples" / "kubernetes"
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def number(quantity: str) -> float:
    value, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()
    return float(value) * UNITS[unit]


@pytest.fixture(scope="module")
def documents() -> list[dict]:
    return list(yaml.safe_load_all((FOLDER / "rayjob.yaml").read_text()))


@pytest.fixture
def job(documents) -> dict:
    return copy.deepcopy(documents[0])


def pods(job: dict) -> list[dict]:
    """Head and worker pods."""
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def workers(job: dict) -> dict:
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return group


def container(pod: dict) -> dict:
    (found,) = pod["spec"]["containers"]
    return found


def test_mounts_and_volumes_belong_together(job):
    for pod in pods(job):
        volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
        mounts = container(pod)["volumeMounts"]
        assert sorted(volumes) == sorted({mount["name"] for mount in mounts})
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts) == len(volumes)


def test_memory_holds_the_object_store(job):
    """/dev/shm holds the object store, and counts as memory of the container."""
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]
        (name,) = [mount["name"] for mount in container(pod)["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
        (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == name]
        assert volume["emptyDir"]["medium"] == "Memory"
        shared = number(volume["emptyDir"]["sizeLimit"])
        resources = container(pod)["resources"]
        assert int(group["rayStartParams"]["object-store-memory"]) < shared < number(resources["limits"]["memory"])
        assert resources["requests"] == resources["limits"], "such pods are the last ones to be evicted"


def test_the_entrypoint_is_a_run_that_fits_the_workers(job):
    executable, python, dash_m, module, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (executable, python, dash_m, module) == ("exec", "python", "-m", "mars.main")
    line = parse_command_line("train", "mars", arguments)
    config = load_config("train", line.overrides, line.config_dirs)
    assert (config.cluster.address, config.run.resume, config.cluster.device) == ("auto", True, "cuda")
    group = workers(job)
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    per_node = int(container(group["template"])["resources"]["limits"]["nvidia.com/gpu"])
    wanted = config.rollout.num_workers * config.rollout.tensor_parallel_size + config.actor.num_workers
    assert wanted == group["replicas"] * per_node
    assert config.cluster.object_store_bytes <= int(group["rayStartParams"]["object-store-memory"])
    shared = [config.run.dir, config.model.path, *config.data.train_files, *config.data.eval_files]
    for pod in pods(job):
        claims = {v["name"]: v["persistentVolumeClaim"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v}
        (mount,) = [mount["mountPath"] for mount in container(pod)["volumeMounts"] if mount["name"] in claims]
        assert all(Path(path).is_relative_to(mount) for path in shared)
        assert pod["spec"]["terminationGracePeriodSeconds"] > config.checkpoint.grace_s
    assert (job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"]) == "0"


def test_all_pods_are_one_image_with_the_pinned_ray_and_without_rights(job):
    every = [job["spec"]["submitterPodTemplate"], *pods(job)]
    assert len({container(pod)["image"] for pod in every}) == 1
    for pod in every:
        assert pod["metadata"]["labels"] == {"app": "mars"}
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"ray[default]=={job['spec']['rayClusterSpec']['rayVersion']}" in extras["vllm"]
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert job["spec"]["rayClusterSpec"]["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_the_image_has_what_the_pods_call(job):
    dockerfile, ignored = (FOLDER / "Dockerfile").read_text(), (FOLDER / "Dockerfile.dockerignore").read_text()
    assert "COPY . /opt/mars\n" in dockerfile
    assert "'/opt/mars[vllm]'" in dockerfile
    uid = pods(job)[0]["spec"]["securityContext"]["runAsUser"]
    assert f"useradd --uid {uid} " in dockerfile
    assert f"\nUSER {uid}\n" in dockerfile
    for pod in pods(job):
        shell, script = container(pod)["lifecycle"]["preStop"]["exec"]["command"]
        inside = Path(script).relative_to("/opt/mars")
        assert (shell, (ROOT / inside).is_file(), f"!{inside.parts[0]}" in ignored.splitlines()) == ("bash", True, True)
    included = {line[1:] for line in ignored.splitlines() if line.startswith("!")}
    assert {"mars", "configs", "pyproject.toml", "README.md"} <= included, "what the wheel is built from"
    assert all((ROOT / name).exists() for name in included)


def test_only_the_runs_pods_and_the_operator_get_in(documents, job):
    policy = documents[1]
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    labels = {"matchLabels": pods(job)[0]["metadata"]["labels"]}
    own, operator = policy["spec"]["ingress"]
    assert policy["spec"]["podSelector"] == labels
    assert own == {"from": [{"podSelector": labels}]}
    (dashboard,) = [port for port in container(pods(job)[0])["ports"] if port["name"] == "dashboard"]
    assert operator["ports"] == [{"protocol": "TCP", "port": dashboard["containerPort"]}]
    assert len(documents) == 2


def test_the_check_has_the_settings_and_the_volume_of_the_run(job):
    pod = yaml.safe_load((FOLDER / "check.yaml").read_text())
    checked = [word for word in container(pod)["command"] if word != "--dry-run"]
    assert ["exec", *checked] == shlex.split(job["spec"]["entrypoint"])
    head = pods(job)[0]
    assert container(pod)["image"] == container(head)["image"]
    assert pod["spec"]["securityContext"] == head["spec"]["securityContext"]
    claim = {"name": "shared", "persistentVolumeClaim": {"claimName": "mars-shared"}}
    assert pod["spec"]["volumes"] == [claim]
    assert claim in head["spec"]["volumes"]
    assert container(pod)["volumeMounts"] == [
        mount for mount in container(head)["volumeMounts"] if mount["name"] == "shared"
    ]
