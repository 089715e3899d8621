"""Schemas of Kubernetes' objects that refuse every unknown field, and the parts that schemas are written with.

The package `kubernetes-validate` ships the schemas that Kubernetes publishes for each of its versions. They name fields
and types, but not every rule of the API server: `RULES` adds those about fields that the example uses (values of
enumerations, names, quantities, ports).
"""

from __future__ import annotations

import json
from importlib.resources import files

from referencing import Registry, Resource

DEFINITIONS = "https://kubernetes.io/api/_definitions.json"  # the `$id` in every version's file
CORE = "io.k8s.api.core.v1"
META = "io.k8s.apimachinery.pkg.apis.meta.v1"

TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
FLAG = {"type": "boolean"}
MAP = {"type": "object", "additionalProperties": TEXT}
INTEGER = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
COUNT = {**INTEGER, "minimum": 0}
POSITIVE = {**INTEGER, "minimum": 1}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}  # a DNS label
QUANTITY = {
    "anyOf": [
        {"type": "number"},
        {"type": "string", "pattern": r"^[+-]?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?$"},
    ]
}
LABELS = {
    "additionalProperties": {"type": "string", "pattern": r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"},
    "propertyNames": {"pattern": r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"},
}
PORT = {"minimum": 1, "maximum": 65535}
PROTOCOL = {"enum": ["TCP", "UDP", "SCTP"]}

# What the API server checks beyond its published schema: definition -> field -> rule.
RULES = {
    f"{META}.ObjectMeta": {"name": {"pattern": r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"}, "labels": LABELS},
    f"{META}.LabelSelector": {"matchLabels": LABELS},
    f"{CORE}.PodSpec": {
        "restartPolicy": {"enum": ["Always", "OnFailure", "Never"]},
        "containers": {"minItems": 1},
        "terminationGracePeriodSeconds": {"minimum": 0},
    },
    f"{CORE}.Container": {
        "name": NAME,
        "image": {"pattern": r"^[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?$"},
        "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    },
    f"{CORE}.ContainerPort": {
        "name": {"pattern": r"^(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$"},
        "containerPort": PORT,
        "protocol": PROTOCOL,
    },
    f"{CORE}.EnvVar": {"name": {"pattern": r"^[!-<>-~]+$"}},
    f"{CORE}.ExecAction": {"command": {"minItems": 1}},
    f"{CORE}.PodSecurityContext": {key: {"minimum": 0} for key in ("runAsUser", "runAsGroup", "fsGroup")},
    f"{CORE}.SeccompProfile": {"type": {"enum": ["RuntimeDefault", "Localhost", "Unconfined"]}},
    f"{CORE}.Volume": {"name": NAME},
    f"{CORE}.VolumeMount": {"mountPath": {"pattern": "^[^:]+$"}},
    f"{CORE}.EmptyDirVolumeSource": {"medium": {"pattern": r"^(Memory|HugePages(-\w+)?)?$"}},
    f"{CORE}.ServiceSpec": {"type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]}},
    "io.k8s.api.networking.v1.NetworkPolicySpec": {"policyTypes": {"items": {"enum": ["Ingress", "Egress"]}}},
    "io.k8s.api.networking.v1.NetworkPolicyPort": {"protocol": PROTOCOL, "port": PORT},
}
# One source for each variable and one kind for each volume.
ONE_SOURCE = {f"{CORE}.EnvVarSource": 1, f"{CORE}.Volume": 2}


def ref(name: str) -> dict:
    """A definition of Kubernetes."""
    return {"$ref": f"{DEFINITIONS}#/$defs/{name}"}


def record(required: str = "", **properties) -> dict:
    """An object with these fields alone."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def each(item: dict) -> dict:
    return {"type": "array", "items": item}


def choice(*values: str | bool) -> dict:
    return {"enum": list(values)}


def where(condition: dict, then: dict) -> dict:
    """A rule for objects whose fields fit the schemas in `condition`."""
    return {"if": {"properties": condition, "required": list(condition)}, "then": then}


def without(*fields: str) -> dict:
    return {"properties": dict.fromkeys(fields, False)}


def registry(version: str) -> Registry:
    """The definitions of this version of Kubernetes (`1.37`) with `RULES`, for `ref`."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    document = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
    definitions = document["$defs"]
    for name, fields in RULES.items():
        properties = definitions[name]["properties"]
        for field, rule in fields.items():
            properties[field] = {"allOf": [properties[field], rule]}
    for name, most in ONE_SOURCE.items():
        definitions[name]["maxProperties"] = most
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = QUANTITY
    return Registry().with_resource(DEFINITIONS, Resource.from_contents(document))
