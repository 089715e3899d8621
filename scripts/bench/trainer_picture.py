"""The picture of scripts/bench.py trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NAMES = {"padded": "rows", "vision_once": "rows, images once", "shared_prefix": "shared prefix"}
_COLOURS = {"padded": "#9e9e9e", "vision_once": "#6a9fd8", "shared_prefix": "#d9663b"}
_WIDTH = 0.26


def draw(report: Mapping[str, Any], path: Path) -> None:
    """One panel per model: seconds of a group's forward (light) and backward, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = report["models"]
    figure, axes = plt.subplots(1, len(models), figsize=(6.5 * len(models), 4.2), squeeze=False, layout="constrained")
    for axis, (name, model) in zip(axes[0], models.items(), strict=True):
        _panel(axis, model["cases"])
        axis.set_title(f"{name}: {model['parameters'] / 1e6:.1f} million parameters")
    axes[0][0].set_ylabel("seconds for one group, forward (light) + backward")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(axis: Any, cases: Mapping[str, Any]) -> None:
    highest = 0.0
    for place, case in enumerate(cases.values()):
        for i, (layout, found) in enumerate(case["layouts"].items()):
            x, colour = place + (i - 1) * _WIDTH, _COLOURS[layout]
            label = _NAMES[layout] if place == 0 else None
            axis.bar(x, found["seconds"], _WIDTH * 0.92, color=colour, label=label)
            axis.bar(x, found["forward_seconds"], _WIDTH * 0.92, color="white", alpha=0.45)
            floor_label = "floor: operations at the speed of one matrix product" if place == i == 0 else None
            half = _WIDTH * 0.46
            axis.hlines(found["floor_seconds"], x - half, x + half, color="black", lw=1.6, label=floor_label)
            highest = max(highest, found["seconds"])
        speed = case["padded/shared_prefix"]["value"]
        shared = case["layouts"]["shared_prefix"]["seconds"]
        axis.annotate(f"{speed:.1f}x", (place + _WIDTH, shared), ha="center", va="bottom", fontsize=9)
    axis.set_yscale("log")
    axis.set_ylim(top=highest * 6)  # room for the legend
    axis.set_xticks(range(len(cases)), list(cases))
    axis.set_xlabel("prompt tokens / tokens of a response / responses")
    axis.legend(fontsize=8, frameon=False, loc="upper left")
