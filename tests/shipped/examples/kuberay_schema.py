"""A schema of a RayJob of KubeRay 1.6.2 that refuses every unknown field, and `validator` for all kinds of the example.

Every field of a RayJob's spec, written from KubeRay's API reference at the tag v1.6.2 and from its Go types: types,
enumerations, required fields, and the rules on `deletionStrategy` and `managedBy`. `OPERATOR` has the rules that the
operator checks later (`ValidateRayJobSpec`, `ValidateRayClusterSpec`) and that a JSON schema can say. What compares two
fields is left out (`minReplicas` with `maxReplicas`), and so is what compares two versions of an object.
"""

from __future__ import annotations

import functools

from jsonschema import Draft202012Validator

from tests.shipped.examples.kubernetes_schema import (
    CORE,
    COUNT,
    FLAG,
    INTEGER,
    LABELS,
    MAP,
    META,
    POSITIVE,
    TEXT,
    TEXTS,
    choice,
    each,
    record,
    ref,
    registry,
    where,
    without,
)

POD = ref(f"{CORE}.PodTemplateSpec")
MANAGER = choice("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
POLICY = choice("DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone")
LEGACY = record(policy=POLICY)
DELETION = {
    **record(
        onSuccess=LEGACY,
        onFailure=LEGACY,
        deletionRules={
            **each(
                record(
                    "policy condition",
                    policy=POLICY,
                    condition={
                        **record(
                            jobStatus=choice("SUCCEEDED", "FAILED"),
                            jobDeploymentStatus=choice("Failed"),
                            ttlSeconds=COUNT,
                        ),
                        "oneOf": [{"required": ["jobStatus"]}, {"required": ["jobDeploymentStatus"]}],
                    },
                )
            ),
            "minItems": 1,
        },
    ),
    "oneOf": [
        {"required": ["onSuccess", "onFailure"], **without("deletionRules")},
        {"required": ["deletionRules"], **without("onSuccess", "onFailure")},
    ],
}
AUTOSCALER = record(
    resources=ref(f"{CORE}.ResourceRequirements"),
    image=TEXT,
    imagePullPolicy=choice("Always", "IfNotPresent", "Never"),
    securityContext=ref(f"{CORE}.SecurityContext"),
    idleTimeoutSeconds=INTEGER,
    upscalingMode=choice("Default", "Aggressive", "Conservative"),
    version=choice("v1", "v2"),
    env=each(ref(f"{CORE}.EnvVar")),
    envFrom=each(ref(f"{CORE}.EnvFromSource")),
    volumeMounts=each(ref(f"{CORE}.VolumeMount")),
)
CREDENTIAL = record(value=TEXT, valueFrom=ref(f"{CORE}.EnvVarSource"))
GROUP = {"resources": MAP, "labels": MAP, "rayStartParams": MAP, "template": POD}
HEAD = record(
    "template",
    **GROUP,
    headService=ref(f"{CORE}.Service"),
    enableIngress=FLAG,
    serviceType=choice("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
)
WORKER = record(
    "groupName minReplicas maxReplicas template",
    **GROUP,
    groupName=TEXT,
    suspend=FLAG,
    replicas=INTEGER,
    minReplicas=INTEGER,
    maxReplicas=INTEGER,
    numOfHosts=INTEGER,
    idleTimeoutSeconds=INTEGER,
    scaleStrategy=record(workersToDelete=TEXTS),
)
CLUSTER = record(
    "headGroupSpec",
    headGroupSpec=HEAD,
    workerGroupSpecs=each(WORKER),
    rayVersion=TEXT,
    authOptions=record(mode=choice("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
    autoscalerOptions=AUTOSCALER,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=record(
        "redisAddress",
        redisAddress=TEXT,
        redisUsername=CREDENTIAL,
        redisPassword=CREDENTIAL,
        externalStorageNamespace=TEXT,
    ),
    headServiceAnnotations=MAP,
    managedBy=MANAGER,
    suspend=FLAG,
    upgradeStrategy=record(type=choice("Recreate", "None")),
)
SPEC = record(
    activeDeadlineSeconds=INTEGER,
    backoffLimit=INTEGER,
    clusterSelector=MAP,
    deletionStrategy=DELETION,
    entrypoint=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
    jobId=TEXT,
    managedBy=MANAGER,
    metadata=MAP,
    preRunningDeadlineSeconds=POSITIVE,
    rayClusterSpec=CLUSTER,
    runtimeEnvYAML=TEXT,
    shutdownAfterJobFinishes=FLAG,
    submissionMode=choice("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterConfig=record(backoffLimit=INTEGER),
    submitterPodTemplate=POD,
    suspend=FLAG,
    ttlSecondsAfterFinished=INTEGER,
)

ON, TOKEN = choice(True), choice("token")
OFF = {"properties": {"shutdownAfterJobFinishes": choice(False)}}
SHUTDOWN = {"properties": {"shutdownAfterJobFinishes": ON}, "required": ["shutdownAfterJobFinishes"]}
NO_RETRY = {"properties": {"backoffLimit": {"maximum": 0}}}
NEVER = {"properties": {"spec": {"properties": {"restartPolicy": choice("Never")}}}}
START_RESOURCES = without("num-cpus", "num-gpus", "memory", "resources")


def group(*rules: dict, **fields: dict) -> dict:
    """Rules of a group: resources in one place, its labels in their own field; and those given."""
    once = where({"resources": {"minProperties": 1}}, {"properties": {"rayStartParams": START_RESOURCES}})
    return {
        "properties": {"rayStartParams": without("labels"), "labels": LABELS, **fields},
        "allOf": [once, *rules],
    }


JOB_NAME = {"pattern": "^[a-z]", "maxLength": 47}  # the names of pods and services begin with it
RECENT = {"pattern": r"^(2\.(5[2-9]|[6-9]\d|\d{3,})|[3-9]\.|\d{2,}\.)"}  # Ray 2.52 or newer
OPERATOR = {
    "properties": {
        "activeDeadlineSeconds": POSITIVE,
        "backoffLimit": COUNT,
        "ttlSecondsAfterFinished": COUNT,
        "clusterSelector": {"required": ["ray.io/cluster"], "properties": {"ray.io/cluster": {"minLength": 1}}},
        "rayClusterSpec": {
            "properties": {
                "headGroupSpec": group({"properties": {"rayStartParams": without("redis-username")}}),
                "workerGroupSpecs": {"items": group(minReplicas=COUNT, maxReplicas=COUNT)},
                "autoscalerOptions": {"properties": {"idleTimeoutSeconds": COUNT}},
                "authOptions": where({"enableK8sTokenAuth": ON}, {"required": ["mode"], "properties": {"mode": TOKEN}}),
                "upgradeStrategy": without("type"),
            },
            "allOf": [
                where(
                    {"authOptions": {"not": {"properties": {"mode": choice("disabled")}, "required": ["mode"]}}},
                    {"required": ["rayVersion"], "properties": {"rayVersion": RECENT}},
                ),
            ],
        },
    },
    "anyOf": [{"required": ["rayClusterSpec"]}, {"required": ["clusterSelector"]}],
    "allOf": [
        where({"suspend": ON}, SHUTDOWN),
        where({"ttlSecondsAfterFinished": {"minimum": 1}}, SHUTDOWN),
        where({"deletionStrategy": {"required": ["deletionRules"]}}, OFF),
        where({"clusterSelector": {}}, {**NO_RETRY, "not": {"properties": {"suspend": ON}, "required": ["suspend"]}}),
        where({"submissionMode": choice("InteractiveMode")}, NO_RETRY),
        where(
            {"submissionMode": choice("SidecarMode")},
            {
                "properties": {
                    **without("submitterPodTemplate", "submitterConfig", "clusterSelector")["properties"],
                    "rayClusterSpec": {"properties": {"headGroupSpec": {"properties": {"template": NEVER}}}},
                }
            },
        ),
    ],
}
RAY_JOB = {
    **record(
        "apiVersion kind metadata spec",
        apiVersion=choice("ray.io/v1"),
        kind=choice("RayJob"),
        metadata=ref(f"{META}.ObjectMeta"),
        spec={"allOf": [SPEC, OPERATOR]},
    ),
    "allOf": [{"properties": {"metadata": {"properties": {"name": JOB_NAME}, "required": ["name"]}}}],
}
KINDS = {
    "RayJob": RAY_JOB,
    "Pod": ref(f"{CORE}.Pod"),
    "NetworkPolicy": ref("io.k8s.api.networking.v1.NetworkPolicy"),
}


@functools.cache
def validator(kind: str, kubernetes: str) -> Draft202012Validator:
    """Validates objects of this kind, with the schemas of this version of Kubernetes (`1.37`)."""
    return Draft202012Validator(KINDS[kind], registry=registry(kubernetes))
