"""Draw the figures of a run's report as SVG images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from mars.output.fonts import drawable, families
from mars.output.text import shorten
from mars.report.choice import evenly
from mars.tracking.sources import ANCHOR
from mars.tracking.timer import STAGES, overlapping_stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito's palette, distinguishable with colour blindness. Line styles differ too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Bars may have the palette's eighth colour, yellow, which is too light for lines.
_STAGE_COLOURS = {
    "gen": "#0072B2",
    "reward": "#D55E00",
    "ref": "#009E73",
    "old_log_prob": "#CC79A7",
    "update_actor": "#E69F00",
    "sync_weights": "#56B4E9",
    "turns": "#F0E442",
    "driver": "#000000",
    "wait_rollouts": "#999999",
    "probe": "#661100",
    "signals": "#332288",
}
_STYLES = ("-", "--", "-.", ":")
# Runs of at least this many steps are drawn as trailing means over 1/20 of the run, with the raw values behind them.
_SMOOTH_FROM = 40
# The stage figure has at most this many bars; longer runs are averaged in bins.
_MAX_BARS = 100
_WIDTH, _HEIGHT = 4.6, 2.9  # inches: letters of 9 points can be read where a figure is as wide as a phone
_LABEL_CHARACTERS = 60
_LINE_CHARACTERS = 68  # most characters of a line of the legend
MAX_LINES = 12  # most lines of a figure: more could not be told apart
_MAX_POINTS = 400  # most points of a run's line: more cannot be seen, and make the page larger
_MARKED = 20  # a run's line with at most so many points, such as one of evaluations, gets a marker at each
_LARGEST = 1e100  # largest drawn value: beyond it, sums and differences of values, and axes, overflow
GAIN_CAPTION = "Gain: reward of the multi rollouts minus reward of the anchors."
LENGTH_CAPTION = "Response length."


@dataclass(frozen=True)
class Figure:
    """caption: below the figure. description: in words, for those who cannot see it. svg: the drawing."""

    caption: str
    description: str
    svg: bytes


def draw_figures(rows: Rows) -> list[Figure]:
    """Every figure for which the rows of metrics.jsonl have values."""
    multi = series_of(rows, "critic/score/mean")
    anchors = {key: series_of(rows, f"mars/anchor/{key}/mean") for key in _anchor_names(rows)}
    gains = {"over the mean of the sources": series_of(rows, "mars/gain/mean")}
    gains |= {f"over {name}": _difference(multi, anchor) for name, anchor in anchors.items()}
    lines = [
        (
            "Reward of the multi rollouts, and of the anchors of each source.",
            {"multi": multi, **{f"anchor: {name}": series for name, series in anchors.items()}},
            "mean score",
        ),
        (GAIN_CAPTION, gains, "difference of scores"),
        (
            LENGTH_CAPTION,
            {name: series_of(rows, f"response_length/{name}") for name in ("mean", "max")},
            "tokens",
        ),
    ]
    figures = [lines_figure(caption, series, unit) for caption, series, unit in lines if any(series.values())]
    stages = [*STAGES, "driver"]
    if any(f"timing_s/{stage}" in row for row in rows for stage in stages):
        described = f"Stacked bars, one colour for each stage, over steps {rows[0]['step']} to {rows[-1]['step']}."
        figures.append(Figure("Seconds per stage of a step.", described, _stage_figure(rows, stages)))
    return figures


Series = list[tuple[int, float]]


def _anchor_names(rows: Rows) -> list[str]:
    return sorted({match[1] for row in rows for key in row if (match := ANCHOR.fullmatch(key))})


def series_of(rows: Rows, key: str) -> Series:
    """(step, value) of the rows that have a value that can be drawn."""
    return [(row["step"], float(value)) for row in rows if can_be_drawn(value := row.get(key))]


def can_be_drawn(value: object) -> TypeGuard[float]:
    """Whether the value is a number that is not NaN, nor beyond 1e100."""
    return isinstance(value, int | float) and abs(value) <= _LARGEST


def _difference(left: Series, right: Series) -> Series:
    subtrahend = dict(right)
    return [(step, value - subtrahend[step]) for step, value in left if step in subtrahend]


def _trailing_means(series: Series, window: int, places: Sequence[int]) -> Series:
    """For each point at `places`: (step, mean of the last `window` values up to this point, fewer at the start)."""
    values = [value for _, value in series]
    parts = [values[max(0, place + 1 - window) : place + 1] for place in places]
    return [(series[place][0], sum(part) / len(part)) for place, part in zip(places, parts, strict=True)]


def lines_figure(caption: str, lines: Mapping[str, Series], unit: str, *, of_runs: bool = False) -> Figure:
    """A figure of the first lines that have values, with a caption that says how many are left out.

    The place of a line in `lines` decides its colour and style. of_runs: whether the lines belong to several runs.
    If so, a smoothed line has no pale line of its raw values behind it, and a line of at most 20 points has a marker
    at each.
    """
    found = {name: (place, series) for place, (name, series) in enumerate(lines.items()) if series}
    places = {name: place for name, (place, _) in list(found.items())[:MAX_LINES]}
    shown = {name: found[name][1] for name in places}
    left_out = len(found) - len(shown)
    more = f" {left_out} more lines are not drawn; metrics.jsonl has their values." if left_out else ""
    steps = [step for series in shown.values() for step, _ in series]
    last = "; ".join(f"{name} {series[-1][1]:.3g}" for name, series in shown.items())
    described = f"Lines over steps {min(steps)} to {max(steps)}, in {unit}. Last values: {last}."
    return Figure(caption + more, described, _line_figure(shown, places, unit, of_runs))


def _line_figure(lines: Mapping[str, Series], numbers: Mapping[str, int], unit: str, of_runs: bool) -> bytes:
    longest = max(map(len, lines.values()))  # one window for all lines: a shorter window makes a line less smooth

    def draw(axes: Axes) -> None:
        for name, series in lines.items():
            colour, style = _COLOURS[numbers[name] % len(_COLOURS)], _STYLES[numbers[name] % len(_STYLES)]
            if longest >= _SMOOTH_FROM:
                if not of_runs:
                    axes.plot(*zip(*series, strict=True), color=colour, alpha=0.25, linewidth=0.8)
                places = evenly(range(len(series)), _MAX_POINTS if of_runs else len(series))
                series = _trailing_means(series, longest // 20, places)
            marker = "o" if len(series) <= (_MARKED if of_runs else 1) else None
            line = {"color": colour, "linestyle": style, "marker": marker, "markersize": 4, "label": _label(name)}
            axes.plot(*zip(*series, strict=True), **line)
        if unit.startswith("difference"):
            axes.axhline(0, color="#888888", linewidth=0.8)
        axes.set_ylabel(unit)

    return _svg(draw)


def _stage_figure(rows: Rows, stages: Sequence[str]) -> bytes:
    timed = [_without_overlap(row) for row in rows if any(f"timing_s/{stage}" in row for stage in stages)]
    size = -(-len(timed) // _MAX_BARS)
    bins = [timed[start : start + size] for start in range(0, len(timed), size)]

    def draw(axes: Axes) -> None:
        bottom = [0.0] * len(bins)
        for stage in stages:
            heights = [sum(value for _, value in series_of(part, f"timing_s/{stage}")) / len(part) for part in bins]
            if any(heights):
                steps = [part[0]["step"] + (size - 1) / 2 for part in bins]
                axes.bar(steps, heights, 0.9 * size, bottom=bottom, color=_STAGE_COLOURS[stage], label=_label(stage))
                bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        axes.set_ylabel("seconds")

    return _svg(draw)


def _without_overlap(row: Mapping[str, Any]) -> Mapping[str, Any]:
    overlapping = {f"timing_s/{stage}" for stage in overlapping_stages(row)}
    return {key: value for key, value in row.items() if key not in overlapping} if overlapping else row


def _label(name: str) -> str:
    """Make a source's name, which comes from the data, safe for matplotlib.

    A `$` would start mathematics, and labels with a leading underscore would be hidden. Characters that no font has
    become their escapes (`drawable`).
    """
    text = drawable(shorten(name, _LABEL_CHARACTERS))
    text = shorten(text, _LABEL_CHARACTERS).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _svg(draw: Any) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # A fixed salt and no date, so that the same numbers give the same bytes.
    settings = {
        "svg.hashsalt": "mars",
        "svg.fonttype": "path",
        "font.family": list(families()),
        "font.size": 9,
        "axes.unicode_minus": True,
    }
    with rc_context(settings):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        labels = axes.get_legend_handles_labels()[1]
        longest = max((len(label) for label in labels), default=1)
        columns = max(1, min(4, _LINE_CHARACTERS // (longest + 6)))
        # Room for the legend: the axes stay as high as they are with a legend of one line.
        figure.set_figheight(_HEIGHT + 0.18 * (-(-len(labels) // columns) - 1))
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
