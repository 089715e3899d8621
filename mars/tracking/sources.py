"""Metrics of single sources under additional names, so that trackers show the curves of all sources in one chart."""

from __future__ import annotations

import re
from collections.abc import Mapping

PREFIX = "sources"
ANCHOR = re.compile(r"mars/anchor/(.+)/mean")
"""The metrics of the anchors' scores; the group is the name of their view."""

_CURVES = {
    "score": ("critic/score/mean", ANCHOR),
    "eval": ("eval/multi/mean", re.compile(r"eval/mono/(.+)/mean")),
}
"""Chart -> the metric of all sources together, and the metrics of single ones."""


def source_curves(metrics: Mapping[str, float]) -> dict[str, float]:
    """Values of `metrics` under the names sources/<chart>/multi and sources/<chart>/<source>.

    A chart is left out if `metrics` has no value of a single source for it.

    >>> source_curves({"critic/score/mean": 0.5, "mars/anchor/depth/mean": 0.25, "eval/multi/mean": 0.75})
    {'sources/score/multi': 0.5, 'sources/score/depth': 0.25}
    """
    curves: dict[str, float] = {}
    for chart, (together, of_one) in _CURVES.items():
        single = {match[1]: value for key, value in metrics.items() if (match := of_one.fullmatch(key))}
        if single and together in metrics:
            single = {"multi": metrics[together], **single}
        curves |= {f"{PREFIX}/{chart}/{name}": value for name, value in single.items()}
    return curves


def chart_patterns() -> dict[str, str]:
    """Chart -> a regular expression of the names of its curves."""
    return {chart: f"^{PREFIX}/{chart}/.+" for chart in _CURVES}
