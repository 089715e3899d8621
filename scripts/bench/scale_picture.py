"""The picture of scripts/bench.py scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scripts.bench.memory import is_ours
from scripts.bench.summary import STAGES

_TITLES = {
    "samples": "samples of a prompt (G)",
    "prompts": "prompts of a step",
    "sources": "sources of a prompt",
    "image_side": "side of an image, pixels",
}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draw a column for each sweep: seconds above, and memory below. Black bars show the floor of each stage. The last
    row shows memory and seconds of the report's long run.

    Writes a PNG file.
    """
    sweeps = {name: points for name, points in report["sweeps"].items() if points}
    steps = report.get("steps")
    num_columns = max(len(sweeps), 2)
    figure, axes = plt.subplots(3, num_columns, figsize=(4.2 * num_columns, 10), squeeze=False, layout="constrained")
    for column, (name, points) in enumerate(sweeps.items()):
        _stages(axes[0][column], name, points)
        _peaks(axes[1][column], name, points)
    if steps:
        _over_steps(axes[2][0], axes[2][1], steps)
    for axis in axes.flat:
        if not axis.has_data():
            axis.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _stages(axis: Axes, name: str, points: Sequence[Mapping[str, Any]]) -> None:
    places, below = range(len(points)), [0.0] * len(points)
    for stage in STAGES:
        seconds = [point["stages"][stage] for point in points]
        if any(seconds):
            axis.bar(places, seconds, bottom=below, label=stage, width=0.6)
        floors = [point["floor"].get(stage, {}).get("floor_seconds", 0.0) for point in points]
        if any(floors):
            label = None if any(below) else "floor"
            axis.bar(places, floors, bottom=below, width=0.2, color="black", label=label)
        below = [a + b for a, b in zip(below, seconds, strict=True)]
    first = points[0]
    if name != "image_side":  # a prompt's image tokens grow with the area, and its other tokens do not grow
        proportional = [first["seconds_per_step"] * point[name] / first[name] for point in points]
        axis.plot(places, proportional, "k--", linewidth=1, label="in proportion")
    axis.set_xticks(places, [str(point[name]) for point in points])
    axis.set(title=_TITLES[name], ylabel="seconds per step")
    axis.legend(fontsize=7)


def _peaks(axis: Axes, name: str, points: Sequence[Mapping[str, Any]]) -> None:
    values = [point[name] for point in points]
    for process in points[0]["peak_memory_mib"]:
        if is_ours(process):
            axis.plot(values, [point["peak_memory_mib"].get(process) for point in points], "o-", label=process)
    axis.set_xticks(values)
    axis.set(xlabel=_TITLES[name], ylabel="peak memory, MiB", ylim=(0, None))
    axis.legend(fontsize=7)


def _over_steps(memory: Axes, seconds: Axes, steps: Mapping[str, Any]) -> None:
    for process, values in steps["memory_mib"]["rss"].items():
        if is_ours(process):
            memory.plot(range(1, len(values) + 1), values, label=process)
    memory.set(xlabel="step", ylabel="resident memory, MiB", ylim=(0, None), title="one long run")
    memory.legend(fontsize=7)
    times = steps["seconds_per_step"]
    first = steps["num_steps"] - len(times) + 1
    seconds.plot(range(first, first + len(times)), times, linewidth=0.8)
    seconds.set(xlabel="step", ylabel="seconds per step", ylim=(0, None), title="one long run")
