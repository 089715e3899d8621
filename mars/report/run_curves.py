"""The curves of several runs over each other, for the page that compares them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from mars.output.text import shorten
from mars.report.plots import GAIN_CAPTION, LENGTH_CAPTION, Figure, lines_figure, series_of

# (caption, metric, unit)
_CURVES = (
    ("Reward of the multi rollouts.", "critic/score/mean", "mean score"),
    ("Evaluation on held-out samples: Multi.", "eval/multi/mean", "mean value"),
    (GAIN_CAPTION, "mars/gain/mean", "difference of scores"),
    ("Conflicts: prompts with a source that alone scores better.", "mars/conflict_rate", "share of prompts"),
    (LENGTH_CAPTION, "response_length/mean", "tokens"),
    ("Entropy of the policy.", "actor/entropy", "nats"),
    ("Norm of the gradient before clipping.", "actor/grad_norm", "norm"),
    ("Cold start: cross-entropy of the responses.", "sft/loss", "nats per token"),
    ("Cold start: cross-entropy of the held-out responses.", "eval/loss", "nats per token"),
    ("Time of a step.", "timing_s/step", "seconds"),
)
_NAME_CHARACTERS = 24
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})  # bidirectional classes of Hebrew and Arabic letters and digits


def draw_run_curves(runs: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]]) -> list[Figure]:
    """A figure for each curve that at least one run has.

    runs: (mark, name, rows of metrics.jsonl). The place of a run in `runs` decides its colour and style in all figures.
    """
    labels = [_label(mark, name) for mark, name, _ in runs]
    figures = []
    for caption, metric, unit in _CURVES:
        lines = {label: series_of(rows, metric) for label, (_, _, rows) in zip(labels, runs, strict=True)}
        if any(lines.values()):
            figures.append(lines_figure(caption, lines, unit, of_runs=True))
    return figures


def _label(mark: str, name: str) -> str:
    """The mark and the name of a run. The mark alone for a right-to-left name, which matplotlib draws backwards."""
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in name):
        return mark
    return f"{mark} {shorten(name, _NAME_CHARACTERS)}"
