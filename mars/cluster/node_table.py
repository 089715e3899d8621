"""A table of a cluster's nodes: what each node has, which workers it would get, and what would be left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mars.cluster.layout import Layout, WorkerResources, totals
from mars.cluster.node_plan import Amount, number
from mars.output.text import aligned, visible

_MAX_ROWS = 32


@dataclass(frozen=True)
class NodeRow:
    """A node of the table. used_by: a text for each job that uses resources of the node."""

    name: str
    total: Amount
    free: Amount
    used_by: Sequence[str] = ()


def have_want(nodes: Sequence[NodeRow], layout: Layout, empty: bool) -> str:
    """The table, followed by the workers without a place and the reasons.

    empty: fill the nodes as if no other job used them.
    """
    left = [node.total if empty else node.free for node in nodes]
    there: list[list[str]] = [[] for _ in nodes]
    without: list[list[WorkerResources]] = []
    for bundle in sorted(layout.bundles, key=lambda bundle: Amount.of(totals(bundle))[::-1], reverse=True):
        size = Amount.of(totals(bundle))
        home = next((i for i, has in enumerate(left) if has.holds(size)), None)
        if home is None:
            without.append(bundle)
        else:
            left[home] = left[home].minus(size)
            there[home] += [worker.name for worker in bundle]
    rows = [("node", "CPUs free/all", "GPUs free/all", "would get", "then left")]
    for node, names, rest in list(zip(nodes, there, left, strict=True))[:_MAX_ROWS]:
        have = [f"{number(free)}/{number(total)}" for free, total in zip(node.free, node.total, strict=True)]
        rows.append((node.name, *have, names_in_short(names) or "nothing", str(rest)))
    lines = aligned(rows)
    if len(nodes) > _MAX_ROWS:
        lines.append(f"and {len(nodes) - _MAX_ROWS} more nodes")
    lines += [f"used on {node.name} by {visible(user)}" for node in nodes[:_MAX_ROWS] for user in node.used_by]
    lines += _without_place(without, [node.total for node in nodes], empty)
    return "\n".join(f"  {line}" for line in lines)


def _without_place(bundles: Sequence[Sequence[WorkerResources]], totals_of_nodes: Sequence[Amount], empty: bool):
    by_size: dict[tuple[Amount, int], list[Sequence[WorkerResources]]] = {}
    for bundle in bundles:
        by_size.setdefault((Amount.of(totals(bundle)), len(bundle)), []).append(bundle)
    for (size, workers), alike in by_size.items():
        names = names_in_short([worker.name for bundle in alike for worker in bundle])
        each = " each" if len(alike) > 1 else ""
        together = f", {workers} workers on one node" if workers > 1 else ""
        yield f"no place for {names} ({size}{each}{together}): {_reason(size, totals_of_nodes, empty)}"


def _reason(size: Amount, nodes: Sequence[Amount], empty: bool) -> str:
    if not nodes:
        return "the cluster has no node"
    if any(node.holds(size) for node in nodes):
        return "the other workers fill the nodes" if empty else "too little is free on each node"
    most = [max(amounts) for amounts in zip(*nodes, strict=True)]
    for kind, want, have in zip(("CPUs", "GPUs"), size, most, strict=True):
        if have < want:
            return f"no node has more than {number(have)} {kind}"
    return "no node has both so many CPUs and so many GPUs"


def names_in_short(names: Sequence[str]) -> str:
    """The names, with ranges: engine-0, actor-1, actor-2, actor-3 -> "engine-0, actor-1 to actor-3"."""
    kinds = list(dict.fromkeys(_number_of(name)[0] for name in names))
    parts: list[list[str]] = []
    for name in sorted(names, key=lambda name: (kinds.index(_number_of(name)[0]), _number_of(name)[1])):
        stem, index = _number_of(name)
        if parts and _number_of(parts[-1][-1]) == (stem, index - 1):
            parts[-1].append(name)
        else:
            parts.append([name])
    return ", ".join(part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts)


def _number_of(name: str) -> tuple[str, int]:
    stem, _, index = name.rpartition("-")
    return stem, int(index)
