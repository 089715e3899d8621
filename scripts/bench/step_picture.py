"""The picture of scripts/bench.py step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scripts.bench.summary import STAGES

_BETWEEN, _WHOLE, _PROCESS, _TARGET = "between steps", "not divided", "whole step, one process", "target"
_SHADES = ("#3f78b5", "#8fbf6b", "#b9a3d0", "#e08a3c", "#4aa5a0", "#8c564b", "#d0d0d0", "#9e9e9e")
_COLOURS = dict(zip((*STAGES, _BETWEEN, _WHOLE), _SHADES, strict=True))
_LEGEND = (*_COLOURS, _PROCESS, _TARGET)
_HEIGHT = 0.5  # of a contender's bar; the rows of contenders are 1 apart


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG file with a row per contender: the stages of a step, and beside them each stage with its floor.

    A floor is the time that the stage's operations or bytes take at the machine's speed (docs/performance.md).
    """
    contenders = report["contenders"]
    figure, (steps, stages) = plt.subplots(
        1, 2, figsize=(14, 2.2 + 0.9 * len(contenders)), sharey=True, width_ratios=(3, 2), layout="constrained"
    )
    for place, found in enumerate(contenders.values()):
        _step(steps, place, found)
        _above_floors(stages, place, found)
    _targets(steps, contenders, report["checks"])
    steps.set_yticks(range(len(contenders)), list(contenders))
    steps.set_ylim(len(contenders) - 0.4, -0.6)
    steps.set_xlim(0, 1.1 * steps.get_xlim()[1])  # room for the column of medians
    steps.set_xlabel("seconds per step")
    handles = dict(zip(*reversed(steps.get_legend_handles_labels()), strict=True))
    shown = [label for label in _LEGEND if label in handles]
    if shown:
        steps.legend(
            [handles[label] for label in shown],
            shown,
            fontsize=8,
            ncols=5,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
        )
    if stages.has_data():
        stages.set_xscale("log")
        first, last = stages.get_xlim()
        stages.set_xlim(first / 1.5, first * (last / first) ** 1.35)  # room for the text
        stages.set_xlabel("seconds of a stage, from its floor (black) to what it took")
    else:
        stages.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _step(axis: Axes, place: int, found: Mapping[str, Any]) -> None:
    """Draw the median of each stage, or one bar for a trainer without stages."""
    parts = {_WHOLE: found["seconds_per_step"]}
    if "stages" in found:
        parts = {**found["stages"], _BETWEEN: found["between_steps"]}
    end = 0.0
    for part, seconds in parts.items():
        if seconds:
            axis.barh(place, seconds, _HEIGHT, left=end, color=_COLOURS[part], label=part)
        end += seconds
    runs = found["seconds_per_step_of_each_run"]
    axis.plot(runs, [place] * len(runs), "ko", markersize=3, label=_PROCESS)
    text = f"{found['seconds_per_step']:.2f} s"
    axis.text(0.985, place, text, transform=axis.get_yaxis_transform(), ha="right", va="center")


def _targets(axis: Axes, contenders: Mapping[str, Any], checks: Mapping[str, Any]) -> None:
    """For each check of one contender against another, mark the length that the first one's bar may have at most."""
    places = list(contenders)
    for name, check in checks.items():
        over, _, under = name.partition("/")
        if over in contenders and under in contenders:
            most, place = check["target"] * contenders[under]["seconds_per_step"], places.index(over)
            axis.plot([most] * 2, [place - 0.36, place + 0.3], "r--", linewidth=1.5, label=_TARGET)
            text = f"at most {check['target']:g} x {under}; is {check['value']:.2f}"
            axis.annotate(text, (most, place - 0.36), ha="center", va="bottom", fontsize=8, color="r")


def _above_floors(axis: Axes, place: int, found: Mapping[str, Any]) -> None:
    """Draw each stage from its floor to its time. As the axis is logarithmic, the length of a bar shows their ratio."""
    floors = {stage: floor["floor_seconds"] for stage, floor in found.get("floor", {}).items()}
    height = 0.8 / max(len(floors), 1)
    for number, (stage, floor) in enumerate(floors.items()):
        seconds = found["stages"][stage]
        middle = place + (number - (len(floors) - 1) / 2) * height
        axis.barh(middle, seconds - floor, 0.8 * height, left=floor, color=_COLOURS[stage])
        axis.vlines(floor, middle - height / 2, middle + height / 2, color="black", linewidth=2.5)
        text = f"{stage}, {seconds / floor:.0f} x"
        axis.annotate(text, (max(seconds, floor), middle), (5, 0), textcoords="offset points", va="center", fontsize=8)
