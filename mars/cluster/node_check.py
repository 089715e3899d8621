"""Compares the nodes of a run with the driver while the workers start, by the rules of mars/cluster/agreement.py."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mars.cluster import node_facts as facts_module
from mars.cluster.agreement import ENGINE_PACKAGES, PACKAGES, Difference, differences, message
from mars.cluster.node_facts import Facts, SharedFiles, node_facts
from mars.cluster.nodes import Node, name_of_this_node
from mars.cluster.placement import Placement
from mars.cluster.ray_errors import one_line
from mars.config.run_sections import ClusterConfig
from mars.data.pixels.mounted import IMAGE_ROOT_VARIABLE
from mars.errors import SetupError, WorkerError
from mars.output import blocks as blocks_module

_ASKED = (*PACKAGES, *ENGINE_PACKAGES)
_NEW_NODE_S = 60.0
"""The time that a node has for its answer, if a lost worker is to start again there."""


class NodeCheck:
    """Asks nodes for their packages and files. The answer comes from a new process with a worker's environment.

    files: that all nodes must have. environment: variables of the workers. timeout_s: for the answers.
    """

    def __init__(self, files: SharedFiles, environment: Mapping[str, str], timeout_s: float) -> None:
        self._files, self._timeout_s = files, timeout_s
        for module in (facts_module, blocks_module):
            cloudpickle.register_pickle_by_value(module)
        self._ask = ray.remote(node_facts)
        runtime_env = {"env_vars": dict(environment)} if environment else None
        self._options = {"num_cpus": 0, "max_retries": 0, "runtime_env": runtime_env}
        self._arguments = _ASKED, files.models, files.images
        self._roots = None if files.image_root is None else (files.image_root, IMAGE_ROOT_VARIABLE)
        self._asked: list[tuple[Node, bool, Any]] = []
        self._seen: set[tuple[str, bool]] = set()

    def start(self, node: Node, runs_vllm: bool) -> None:
        """Ask a node, unless it was asked before with the same `runs_vllm`.

        runs_vllm: whether the node has engines of vLLM.
        """
        if (node.id, runs_vllm) not in self._seen:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            asked = self._ask.options(**self._options, scheduling_strategy=there).remote(*self._arguments, self._roots)
            self._asked.append((node, runs_vllm, asked))
            self._seen.add((node.id, runs_vllm))

    def finish(self) -> None:
        """Wait for the answers. Raises SetupError with a table of the differences from the driver, by node."""
        if not self._asked:
            return
        here, until = node_facts(*self._arguments, None), time.monotonic() + self._timeout_s
        found = {node.name: self._compared(here, runs_vllm, asked, until) for node, runs_vllm, asked in self._asked}
        self._asked = []
        if any(found.values()):
            raise SetupError(message(name_of_this_node(), found))

    def agrees(self, node: Node, runs_vllm: bool) -> bool:
        """Whether a node agrees with the driver, asked before a lost worker starts there.

        False if it does not answer, because this node may be lost too.
        Raises SetupError as `finish`, if it answers and does not agree.
        """
        if (node.id, runs_vllm) in self._seen:
            return True
        self.start(node, runs_vllm)
        (_, _, asked), self._asked = self._asked[0], []
        found = self._compared(node_facts(*self._arguments, None), runs_vllm, asked, time.monotonic() + _NEW_NODE_S)
        if found:
            self._seen.discard((node.id, runs_vllm))
        if any(each.kind == "answer" for each in found):
            return False
        if found:
            raise SetupError(message(name_of_this_node(), {node.name: found}))
        return True

    def _compared(self, here: Mapping[str, Facts], runs_vllm: bool, asked: Any, until: float) -> list[Difference]:
        try:
            there = ray.get(asked, timeout=max(until - time.monotonic(), 0))
        except RayError as error:
            return [Difference("answer", "answer", one_line(error), "")]
        return differences(here, there, runs_vllm, self._files.num_images)


@contextmanager
def nodes_agree(
    placement: Placement,
    cluster: ClusterConfig,
    files: SharedFiles,
    environment: Mapping[str, str],
    vllm_bundles: Sequence[int],
) -> Iterator[None]:
    """Compare the nodes of a joined cluster with the driver while the block starts the workers.

    If a lost worker is to start on another node later, that node is compared before. vllm_bundles: bundles with an
    engine of vLLM.
    Raises SetupError at the end of the block, with a table of the differences. If a worker fails in the block, a
    difference may be the cause, and is reported instead.
    """
    if cluster.address is None:  # all workers are on this machine, and have the driver's environment
        yield
        return
    check = NodeCheck(files, environment, cluster.start_timeout_s)

    for node, bundles in placement.homes():
        check.start(node, not set(bundles).isdisjoint(vllm_bundles))
    placement.may_start_on = lambda node, bundle: check.agrees(node, bundle in vllm_bundles)
    try:
        yield
    except WorkerError:
        check.finish()
        raise
    check.finish()
