"""The picture of a study: differences to the baseline with their intervals, and training curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from recipe.effect.analysis import PRIMARY, Comparison, Row
from recipe.effect.study import Study
from recipe.effect.tables import SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#661100", "#999999")
_STYLES = ("-", "--", ":")
_WIDTH, _CURVES_HEIGHT, _ARM_HEIGHT = 4.6, 3.2, 0.28  # inches; of a column, of the curves, of a line of the upper row
_SMOOTHED = 10  # steps of a trailing mean


def draw_study(study: Study, rows: Sequence[Row], comparisons: Sequence[Comparison]) -> bytes:
    """A PNG with a column for each dial (README.md) that has runs.

    Above: arm minus baseline by the primary metric. Below: the metric by step.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    arms = [name for name, arm in study.arms.items() if arm.same_as is None and arm.not_comparable is None]
    upper = 1.2 + _ARM_HEIGHT * len(arms)
    with rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        dials = [dial for dial in study.dials if any(row["dial"] == dial for row in rows)]
        columns = len(dials)
        figure = Figure(figsize=(1.6 + _WIDTH * columns, upper + _CURVES_HEIGHT + 1), layout="constrained", dpi=110)
        axes = figure.subplots(2, columns, squeeze=False, height_ratios=[upper, _CURVES_HEIGHT], sharey="row")
        for column, dial in enumerate(dials):
            shown = [c for c in comparisons if c.dial == dial and c.metric == PRIMARY and c.other == study.baseline]
            _differences(axes[0][column], arms, {c.arm: c for c in shown})
            axes[0][column].set_title(f"dial {dial:g}")
            axes[0][column].set_xlabel(f"difference to {study.baseline}, 95 % interval over seeds")
            _curves(axes[1][column], study, [row for row in rows if row["dial"] == dial], arms)
        axes[1][0].set_ylabel(study.primary.metric)
        pairs = [zip(*of_dial.get_legend_handles_labels(), strict=True) for of_dial in axes[1]]
        lines = {label: handle for of_dial in pairs for handle, label in of_dial}
        if lines:
            shape = {"loc": "outside lower center", "ncols": 6, "frameon": False, "fontsize": 8}
            figure.legend(list(lines.values()), list(lines), **shape)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _differences(axes: Axes, arms: Sequence[str], found: Mapping[str, Comparison]) -> None:
    for place, arm in enumerate(arms):
        if arm not in found:
            continue
        pairs = found[arm].difference.pairs
        if pairs.low is not None and pairs.high is not None:
            axes.plot([pairs.low, pairs.high], [place, place], color=_colour(place), linewidth=1.4)
        axes.plot([pairs.mean], [place], "o", color=_colour(place), markersize=5)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)


def _curves(axes: Axes, study: Study, rows: Sequence[Row], arms: Sequence[str]) -> None:
    """For each arm, the primary metric in each step: the mean over the arm's runs, smoothed by a trailing mean over
    steps. The steps from which `Primary` takes its mean are shaded."""
    from matplotlib.ticker import MaxNLocator

    for place, arm in enumerate(arms):
        series = [row[SERIES] for row in rows if row["arm"] == arm and row.get(SERIES)]
        if series:
            means = [sum(values) / len(values) for values in zip(*series, strict=True)]
            parts = [means[max(0, end - _SMOOTHED) : end] for end in range(1, len(means) + 1)]
            smooth = [sum(part) / len(part) for part in parts]
            style = _STYLES[place // len(_COLOURS) % len(_STYLES)]
            axes.plot(
                range(1, len(smooth) + 1), smooth, color=_colour(place), linestyle=style, linewidth=1.1, label=arm
            )
    axes.axvspan(study.primary.first, study.primary.last, color="#f0f0f0", zorder=0)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]
