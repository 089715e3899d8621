"""The nodes of the Ray cluster that this process has joined: what they have, what is free, and who uses the rest."""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray._private.state import available_resources_per_node, state
from ray.core.generated.gcs_pb2 import ActorTableData, PlacementGroupTableData

from mars.cluster.node_plan import Amount
from mars.output.text import shorten

NODE_LABEL = "ray.io/node-id"
"""Ray's label of a node with its id."""
_ENTRY_CHARS = 60


@dataclass(frozen=True)
class Node:
    """A node that is alive. id: Ray's. name: for messages. store_bytes: size of its object store.

    free: what no job has reserved. Ray may learn of changes a second later.
    """

    id: str
    name: str
    total: Amount
    free: Amount
    store_bytes: int


def alive_nodes(by_gpus: bool) -> list[Node]:
    """The nodes in the order in which they are filled: those with the most free GPUs (or CPUs) first.

    Among nodes with equally many, the driver's comes first. The others are ordered by address, so that equal clusters
    are filled alike. Nodes that Ray is about to remove are left out.
    """
    draining, free = state.get_draining_nodes(), available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]
    here = ray.get_runtime_context().get_node_id()
    addresses = Counter(node["NodeManagerAddress"] for node in alive)

    def place(node: Mapping) -> tuple:
        left = Amount.of(free.get(node["NodeID"], {}))
        size = left.gpus if by_gpus else left.cpus
        return -size, node["NodeID"] != here, *_sortable(node["NodeManagerAddress"]), node["NodeID"]

    return [
        Node(
            node["NodeID"],
            _name(node, is_alone=addresses[node["NodeManagerAddress"]] == 1),
            Amount.of(node["Resources"]),
            Amount.of(free.get(node["NodeID"], {})),
            int(node["Resources"].get("object_store_memory", 0)),
        )
        for node in sorted(alive, key=place)
    ]


def name_of_this_node() -> str:
    here = ray.get_runtime_context().get_node_id()
    return next(_name(node, is_alone=True) for node in ray.nodes() if node["NodeID"] == here)


def name_of_node(node_id: str | None) -> str:
    """The node's name for messages; "an unknown node" if it is not alive."""
    return next((node.name for node in alive_nodes(by_gpus=False) if node.id == node_id), "an unknown node")


def _name(node: Mapping, is_alone: bool) -> str:
    """Host and address. If several nodes have this address, also the beginning of the id."""
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    name = address if host in ("", address) else f"{host} ({address})"
    return name if is_alone else f"{name} {node['NodeID'][:6]}"


def _sortable(address: str) -> tuple[int, int, str]:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return 0, 0, address
    return parsed.version, int(parsed), ""


def users_of_nodes() -> dict[str, list[str]]:
    """Who has reserved CPUs or GPUs: id of a node -> lines such as "2 CPU, 1 GPU: job 03000000 (python x.py)".

    Counts placement groups and actors outside them. Ray has no table of what tasks use.
    """
    used: defaultdict[str, defaultdict[str, list[Amount]]] = defaultdict(lambda: defaultdict(list))
    accessor = state._connect_and_get_accessor()
    for record in accessor.get_placement_group_table():
        group = PlacementGroupTableData.FromString(record)
        if group.state != PlacementGroupTableData.REMOVED:
            for bundle in group.bundles:
                used[bundle.node_id.hex()][group.creator_job_id.hex()].append(Amount.of(bundle.unit_resources))
    for record in accessor.get_actor_table(None, "ALIVE"):
        actor = ActorTableData.FromString(record)
        if not actor.placement_group_id:
            used[actor.address.node_id.hex()][actor.job_id.hex()].append(Amount.of(actor.required_resources))
    jobs = {job["JobID"]: shorten(job["Entrypoint"], _ENTRY_CHARS) for job in state.job_table()}
    return {
        node: [f"{_sum(amounts)}: job {job} ({jobs.get(job, 'unknown')})" for job, amounts in by_job.items()]
        for node, by_job in used.items()
    }


def _sum(amounts: Sequence[Amount]) -> Amount:
    return Amount(sum(amount.cpus for amount in amounts), sum(amount.gpus for amount in amounts))
