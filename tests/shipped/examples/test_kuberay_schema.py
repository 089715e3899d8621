"""examples/kubernetes: its objects have only fields that exist, of the right types, and values that are allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.shipped.examples.kuberay_schema import validator

FOLDER = Path(__file__).parents[3] / "examples" / "kubernetes"
VERSIONS = ["1.30", "1.37"]  # of Kubernetes


def places(node, path=()) -> list[tuple]:
    """The path of every value in a document."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path] * bool(path) + [place for key, value in inside for place in places(value, (*path, key))]


def at(node, path: tuple):
    for key in path:
        node = node[key]
    return node


def changed(document: dict, path: str | tuple, value) -> dict:
    """The document with this value at this path, `spec containers 0 name` for example."""
    if isinstance(path, str):
        path = tuple(int(part) if part.isdigit() else part for part in path.split())
    document = json.loads(json.dumps(document))
    at(document, path[:-1])[path[-1]] = value
    return document


@pytest.fixture(scope="module")
def every() -> list[dict]:
    """All objects of the example."""
    found = [d for name in ("rayjob.yaml", "check.yaml") for d in yaml.safe_load_all((FOLDER / name).read_text())]
    assert [document["kind"] for document in found] == ["RayJob", "NetworkPolicy", "Pod"]
    return found


@pytest.fixture
def job(every) -> dict:
    return every[0]


def mistakes(document: dict, version: str = VERSIONS[-1]) -> list[str]:
    return [f"{list(e.absolute_path)}: {e.message}" for e in validator(document["kind"], version).iter_errors(document)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_accept_the_example(every, version):
    assert [mistakes(document, version) for document in every] == [[], [], []]


def test_a_misspelt_field_is_refused_at_every_level(every):
    """Each field in turn; keys of maps that the user chooses (labels, resources, parameters) are no fields."""
    chosen = {"labels", "matchLabels", "rayStartParams", "requests", "limits"}
    tried = set()
    for document in every:
        for path in places(document):
            if not isinstance(path[-1], str) or (len(path) > 1 and path[-2] in chosen):
                continue
            wrong = changed(document, (*path[:-1], f"{path[-1]}s"), at(document, path))
            assert not validator(document["kind"], VERSIONS[-1]).is_valid(wrong), path
            tried.add(path[-1])
    assert len(tried) > 60


def test_a_wrong_type_is_refused_everywhere(every):
    for document in every:
        for path in places(document):
            wrong = "text" if isinstance(at(document, path), dict | list) else {"key": []}
            assert not validator(document["kind"], VERSIONS[-1]).is_valid(changed(document, path, wrong)), path


HEAD, WORKERS = "spec rayClusterSpec headGroupSpec", "spec rayClusterSpec workerGroupSpecs 0"
RULE = {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        # wrong values
        ("apiVersion", "ray.io/v1alpha1"),
        ("metadata name", "Mars_1"),
        ("metadata name", "m" * 48),
        ("metadata labels app", "mars app"),
        ("spec submissionMode", "k8sJobMode"),
        ("spec managedBy", "kueue"),
        ("spec backoffLimit", -1),
        ("spec backoffLimit", True),
        ("spec activeDeadlineSeconds", 0),
        ("spec ttlSecondsAfterFinished", -1),
        ("spec preRunningDeadlineSeconds", 0),
        ("spec submitterPodTemplate spec restartPolicy", "never"),
        ("spec submitterPodTemplate spec securityContext seccompProfile type", "runtime"),
        ("spec rayClusterSpec rayVersion", 2.6),
        ("spec rayClusterSpec rayVersion", "2.51.0"),
        ("spec rayClusterSpec authOptions mode", "Token"),
        ("spec rayClusterSpec gcsFaultToleranceOptions", {}),
        ("spec rayClusterSpec autoscalerOptions", {"upscalingMode": "Fast"}),
        ("spec rayClusterSpec autoscalerOptions", {"idleTimeoutSeconds": -1}),
        (f"{HEAD} serviceType", "clusterIP"),
        (f"{HEAD} rayStartParams num-cpus", 0),
        (f"{HEAD} template spec containers", []),
        (f"{HEAD} template spec containers 0 ports 0 containerPort", 70000),
        (f"{HEAD} template spec containers 0 ports 0 name", "Dashboard"),
        (f"{HEAD} template spec containers 0 ports 0 protocol", "http"),
        (f"{HEAD} template spec containers 0 lifecycle preStop exec command", []),
        (f"{HEAD} template spec terminationGracePeriodSeconds", -1),
        (f"{HEAD} template spec securityContext fsGroup", -1),
        (f"{HEAD} template spec volumes 1 name", "shared_memory"),
        (f"{HEAD} headService", {"spec": {"type": "clusterIP"}}),
        (f"{HEAD} template spec volumes 1 emptyDir medium", "memory"),
        (f"{WORKERS} minReplicas", "3"),
        (f"{WORKERS} maxReplicas", 2**31),
        (f"{WORKERS} template spec containers 0 resources limits memory", "800GB"),
        # fields that do not go together
        ("spec deletionStrategy", {}),
        ("spec deletionStrategy", {"onSuccess": {"policy": "DeleteSelf"}}),
        ("spec deletionStrategy", {"deletionRules": []}),
        ("spec deletionStrategy", {"deletionRules": [RULE]}),  # with shutdownAfterJobFinishes
        ("spec clusterSelector", {"ray.io/cluster": "mine"}),  # with backoffLimit
        ("spec submissionMode", "InteractiveMode"),  # with backoffLimit
        ("spec submissionMode", "SidecarMode"),  # with submitterPodTemplate
        ("spec rayClusterSpec authOptions", {"enableK8sTokenAuth": True}),  # without the mode token
        ("spec rayClusterSpec upgradeStrategy", {"type": "Recreate"}),
        (f"{HEAD} resources", {"CPU": "1"}),  # with num-cpus in rayStartParams
        (f"{WORKERS} rayStartParams labels", "a=b"),
    ],
)
def test_a_mistake_in_the_job_is_refused(job, path, value):
    assert mistakes(changed(job, path, value))


@pytest.mark.parametrize(
    "changes",
    [
        {"spec suspend": True},
        {"spec ttlSecondsAfterFinished": 60, "spec managedBy": "kueue.x-k8s.io/multikueue"},
        {"spec shutdownAfterJobFinishes": False, "spec deletionStrategy": {"deletionRules": [RULE]}},
        {"spec deletionStrategy": {"onSuccess": {"policy": "DeleteSelf"}, "onFailure": {"policy": "DeleteWorkers"}}},
        {"spec submissionMode": "InteractiveMode", "spec backoffLimit": 0},
        {f"{WORKERS} resources": {"GPU": "8"}, f"{WORKERS} labels": {"ray.io/zone": "a"}, f"{WORKERS} numOfHosts": 2},
        {
            "spec rayClusterSpec enableInTreeAutoscaling": True,
            "spec rayClusterSpec autoscalerOptions": {"version": "v2"},
        },
        {f"{HEAD} headService": {"metadata": {"annotations": {"a": "b"}}, "spec": {"ports": [{"port": 1}]}}},
    ],
)
def test_what_kuberay_accepts_is_accepted(job, changes):
    for path, value in changes.items():
        job = changed(job, path, value)
    assert mistakes(job) == []


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({"spec suspend": True, "spec shutdownAfterJobFinishes": False}, False),
        ({"spec shutdownAfterJobFinishes": False, "spec ttlSecondsAfterFinished": 60}, False),
        ({"spec clusterSelector": {"ray.io/cluster": "mine"}, "spec backoffLimit": 0}, True),
        ({"spec clusterSelector": {"ray.io/cluster": ""}, "spec backoffLimit": 0}, False),
        ({"spec clusterSelector": {"app": "mine"}, "spec backoffLimit": 0}, False),
        ({"spec shutdownAfterJobFinishes": False, "spec ttlSecondsAfterFinished": 0}, True),
    ],
)
def test_rules_of_a_job_whose_cluster_stays(job, changes, valid):
    for path, value in changes.items():
        job = changed(job, path, value)
    assert validator("RayJob", VERSIONS[-1]).is_valid(job) == valid


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("NetworkPolicy", "spec policyTypes 0", "ingress"),
        ("NetworkPolicy", "spec ingress 1 ports 0 protocol", "tcp"),
        ("NetworkPolicy", "spec ingress 1 ports 0 port", 0),
        ("NetworkPolicy", "spec podSelector matchLabels app", "-mars"),
        ("Pod", "apiVersion", "v2"),
        ("Pod", "metadata name", "Mars"),
        ("Pod", "spec restartPolicy", "OnError"),
        ("Pod", "spec securityContext runAsUser", -1),
        ("Pod", "spec containers 0 name", "mars.check"),
        ("Pod", "spec containers 0 image", "registry.example.com/mars:0.1.0 "),
        ("Pod", "spec containers 0 imagePullPolicy", "Sometimes"),
        ("Pod", "spec containers 0 env", [{"name": "A=B", "value": ""}]),
        ("Pod", "spec containers 0 env", [{"name": "A", "value": 1}]),
        ("Pod", "spec containers 0 volumeMounts 0 mountPath", "a:b"),
        ("Pod", "spec volumes 0 emptyDir", {}),  # beside the claim
    ],
)
def test_a_mistake_in_the_other_objects_is_refused(every, kind, path, value):
    (document,) = [document for document in every if document["kind"] == kind]
    assert mistakes(changed(document, path, value))
