"""Reserves the workers' resources on the cluster: each bundle on the node that the plan gives it.

At the start all bundles are reserved or none. Later the bundles of lost nodes are reserved again one by one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mars.cluster.layout import Layout, totals
from mars.cluster.node_plan import Amount, Bundles, Strategy, bundles_of, plan_lost, plan_nodes
from mars.cluster.node_table import NodeRow, have_want
from mars.cluster.nodes import NODE_LABEL, Node, alive_nodes, users_of_nodes
from mars.cluster.recent import Recent
from mars.config.run_sections import ClusterConfig
from mars.errors import SetupError

logger = logging.getLogger(__name__)

_LOOK_S = 0.25
"""How often to look whether resources are free now."""
_SETTLE_S = 1.0
"""How long it may take until Ray knows of resources that have just become free."""
_RECENT_S = 0.5
"""How old an answer of Ray about nodes may be, so that many workers that start or wait together share one answer."""
_RESERVE_S = 5.0
"""How long Ray may take to reserve what is free, before the search for free nodes starts again."""


@dataclass(frozen=True)
class NodeChoice:
    """How nodes are chosen. ranks_per_group: consecutive ranks that share a copy of the weights (`actor.fsdp_size`);
    None: all ranks."""

    strategy: Strategy = "pack"
    ranks_per_group: int | None = None


class Placement:
    """The workers' resources, reserved on the nodes of the Ray cluster.

    timeout_s: how long to wait until other jobs free the resources.
    Raises SetupError with a table of the nodes: at once if the workers would not fit on the empty cluster, after
    timeout_s if other jobs still use the resources.
    """

    def __init__(self, layout: Layout, choice: NodeChoice, timeout_s: float) -> None:
        self._layout, self._choice = layout, choice
        self._sizes = [totals(workers) for workers in layout.bundles]
        self._on_gpus = any(size.get("GPU") for size in self._sizes)
        self._kinds = bundles_of(layout, choice.ranks_per_group)
        self._moved: dict[int, PlacementGroup] = {}
        self._seen = Recent(self._look, _RECENT_S)
        self._check_size()
        self._group, self._nodes = self._reserve(timeout_s)
        self._away: set[int] = set()  # bundles whose first node is gone
        self.may_start_on: Callable[[Node, int], bool] = lambda node, bundle: True
        """Asked about a node on which a lost bundle has room now: node, bundle."""

    def scheduling(self, bundle: int) -> PlacementGroupSchedulingStrategy:
        """Where Ray is to start a worker of this bundle.

        If the bundle's node is lost, the bundle is first reserved on another node. If no node has room, the worker
        starts as soon as one has.
        """
        self._move_lost()
        if bundle in self._away and bundle not in self._moved:
            self._moved[bundle] = self._group_of(bundle, None)
        if bundle in self._moved:
            return PlacementGroupSchedulingStrategy(self._moved[bundle], 0)
        return PlacementGroupSchedulingStrategy(self._group, bundle)

    def has_room(self, bundle: int) -> bool:
        """Whether the resources of this bundle are reserved on a node that is alive, and a worker may start there.

        On a new node, `may_start_on` decides the latter.
        """
        if not self._is_reserved(bundle):
            return False
        self._seen.drop()
        if not self._is_reserved(bundle):
            return False
        nodes, groups = self._seen.get()
        home = self._home(bundle, groups)
        return home is None or any(self.may_start_on(node, bundle) for node in nodes if node.id == home)

    def _is_reserved(self, bundle: int) -> bool:
        self._move_lost()
        if bundle not in self._moved:
            return bundle not in self._away
        nodes, groups = self._seen.get()
        return self._home(bundle, groups) in {node.id for node in nodes}

    def _home(self, bundle: int, groups: Mapping[str, Any]) -> str | None:
        """The node that a bundle has moved to. None if it has not moved, or waits for room."""
        group = groups.get(self._moved[bundle].id.hex()) if bundle in self._moved else None
        return group["bundles_to_node_id"][0] if group is not None and group["state"] == "CREATED" else None

    def homes(self) -> list[tuple[Node, list[int]]]:
        """The nodes on which resources were reserved at the start and that are alive, each with its bundles."""
        return [
            (node, bundles)
            for node in alive_nodes(self._on_gpus)
            if (bundles := [bundle for bundle, home in self._nodes.items() if home == node.id])
        ]

    def close(self) -> None:
        for group in (self._group, *self._moved.values()):
            remove_placement_group(group)

    def _check_size(self) -> None:
        nodes = alive_nodes(self._on_gpus)
        if self._plan([node.total for node in nodes]) is None:
            raise SetupError(
                f"cluster: the workers do not fit on its nodes\n{self._table(nodes, empty=True)}\n"
                "ask for fewer workers (actor.num_workers, rollout.num_workers, rollout.tensor_parallel_size), "
                "join a larger cluster (cluster.address), or use cluster.device=cpu"
            )

    def _plan(self, free: Sequence[Amount]) -> Mapping[int, int] | None:
        return plan_nodes(*self._kinds, free, self._choice.strategy)

    def _reserve(self, timeout_s: float) -> tuple[PlacementGroup, dict[int, str]]:
        """The placement group, and a mapping: bundle -> id of its node."""
        start, told = time.monotonic(), False
        while True:
            nodes = alive_nodes(self._on_gpus)
            plan = self._plan([node.free for node in nodes])
            left = start + timeout_s - time.monotonic()
            if plan is not None:
                homes = {bundle: nodes[plan[bundle]].id for bundle in sorted(plan)}
                group = placement_group(
                    self._sizes, "PACK", bundle_label_selector=[{NODE_LABEL: home} for home in homes.values()]
                )
                if group.wait(max(min(left, _RESERVE_S), _LOOK_S)):
                    return group, homes
                remove_placement_group(group)  # another job was faster
            if left <= 0:
                raise SetupError(
                    f"cluster: the workers' resources were not free within {timeout_s:g} s\n"
                    f"{self._table(nodes, empty=False)}\n"
                    "wait for other jobs, or ask for fewer workers (actor.num_workers, rollout.num_workers)"
                )
            if not told and time.monotonic() - start >= min(_SETTLE_S, timeout_s / 2):
                told = True
                logger.warning(
                    "others use the nodes that the workers need; waiting for up to %g s (cluster.start_timeout_s)\n%s",
                    timeout_s,
                    self._table(nodes, empty=False),
                )
            time.sleep(min(_LOOK_S, left))

    def _table(self, nodes: Sequence[Node], empty: bool) -> str:
        used = users_of_nodes()
        rows = [NodeRow(node.name, node.total, node.free, used.get(node.id, ())) for node in nodes]
        return have_want(rows, self._layout, empty)

    def _move_lost(self) -> None:
        """Reserve the bundles of lost nodes again, one by one, so that as many workers as possible go on.

        Bundles with ranks have priority. Each of them is requested once, and the request waits in Ray until there is
        room.
        The request for an engine's bundle is made only if there is room beside all ranks, and withdrawn if the room is
        gone before Ray has placed it, so that an engine cannot take the room that a rank waits for. If the
        new node of a moved bundle is lost too, Ray itself moves the bundle on.
        """
        nodes, groups = self._seen.get()
        alive = {node.id for node in nodes}
        self._away = {bundle for bundle, node in self._nodes.items() if node not in alive}
        waiting = self._away - {bundle for bundle in self._moved if self._home(bundle, groups) is not None}
        if not waiting:
            return
        engines, ranks = (Bundles(k.size, [b for b in k.indices if b in waiting], 1) for k in self._kinds)
        plan = plan_lost(engines, ranks, [node.free for node in nodes], self._choice.strategy)
        for bundle in sorted(waiting):
            target = nodes[plan[bundle]].id if bundle in plan else None
            if target is not None or bundle in self._layout.rank_bundles:
                if bundle not in self._moved:
                    self._moved[bundle] = self._group_of(bundle, target)
            elif bundle in self._moved:
                remove_placement_group(self._moved.pop(bundle))

    def _look(self) -> tuple[list[Node], Mapping[str, Any]]:
        """The nodes, and Ray's table of placement groups. The table is read first, so that what a group in it has
        reserved does not still count as free on the nodes."""
        groups = placement_group_table() if self._moved else {}
        return alive_nodes(self._on_gpus), groups

    def _group_of(self, bundle: int, node: str | None) -> PlacementGroup:
        return placement_group([self._sizes[bundle]], "STRICT_PACK", _soft_target_node_id=node)


def reserved(layout: Layout, cluster: ClusterConfig, fsdp_size: int | None) -> Placement:
    """The placement of the workers of `layout`. fsdp_size: ranks that share a copy of the weights; None: all ranks.

    Warns of nodes of a joined cluster whose object store is smaller than `cluster.object_store_bytes`.
    Raises SetupError as `Placement` does.
    """
    placement = Placement(layout, NodeChoice(cluster.node_strategy, fsdp_size), cluster.start_timeout_s)
    if cluster.address is not None:
        for node, _ in placement.homes():
            if node.store_bytes < cluster.object_store_bytes:
                logger.warning(
                    "cluster.object_store_bytes: the object store of node %s is smaller; got %d bytes, want %d; start "
                    "the node with a larger --object-store-memory, or lower the setting if weights and a batch fit",
                    node.name,
                    node.store_bytes,
                    cluster.object_store_bytes,
                )
    return placement
