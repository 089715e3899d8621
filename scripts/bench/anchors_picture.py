"""The picture of scripts/bench.py anchors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scripts.bench.summary import STAGES

_TOKENS = {"computed_prompt_tokens": "prompt tokens computed", "response_tokens": "response tokens"}
_IMAGES = {"distinct_images": "distinct images", "encoder_runs": "encoder runs"}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draw bars for each variant: seconds of each stage, with the least possible in black; tokens of the engine; its
    distinct images and encoder runs. Writes a PNG file."""
    variants = report["variants"]
    places = list(range(len(variants)))
    figure, (seconds, tokens, images) = plt.subplots(
        1, 3, figsize=(15, 1.5 + 0.6 * len(places)), sharey=True, layout="constrained"
    )
    left = [0.0] * len(places)
    for stage in STAGES:
        values = [variant["stages"][stage] for variant in variants.values()]
        if any(values):
            seconds.barh(places, values, left=left, label=stage)
            _floors(seconds, variants.values(), stage, left)
        left = [a + b for a, b in zip(left, values, strict=True)]
    left = [0.0] * len(places)
    for key, label in _TOKENS.items():
        values = [variant["engine"][key] for variant in variants.values()]
        tokens.barh(places, values, left=left, label=label)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for offset, (key, label) in zip((-0.2, 0.2), _IMAGES.items(), strict=True):
        values = [variant["engine"][key] for variant in variants.values()]
        images.barh([place + offset for place in places], values, height=0.4, label=label)
    seconds.set_yticks(places, list(variants))
    seconds.invert_yaxis()
    for axis, label in ((seconds, "seconds"), (tokens, "tokens of the engine"), (images, "images")):
        axis.set_xlabel(f"{label} per step")
        handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))  # each label once
        axis.legend(handles.values(), handles, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _floors(axis: Axes, variants: Iterable[Mapping[str, Any]], stage: str, left: Sequence[float]) -> None:
    """Draw the floor of `stage`, in the row of each variant, as a thin bar from the start of the stage."""
    floors = [variant.get("floor", {}).get(stage, {}).get("floor_seconds", 0.0) for variant in variants]
    if any(floors):
        axis.barh(range(len(floors)), floors, left=left, height=0.3, color="black", label="floor")
