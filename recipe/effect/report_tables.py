"""The tables of a study's report, with texts as cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recipe.effect.analysis import PRIMARY, SECONDARY, Comparison, Row, means
from recipe.effect.statistics import Estimate
from recipe.effect.study import Study

Table = dict[str, Any]
_NONE = "–"
_LEVEL = 0.05
_OF_CONTROLS = {PRIMARY: "primary", "eval/multi": SECONDARY["eval/multi"]}


def primary_tables(study: Study, rows: Sequence[Row], compared: Sequence[Comparison]) -> list[Table]:
    """For each dial (bias of the cold start): every arm's mean, and its difference to the baseline."""
    of_arms = means(study, rows, PRIMARY)
    columns = ["arm", "method", "rollouts", "runs", "mean ± SE", "difference", "over seeds", "pairs", "p", "p (Holm)"]
    columns += ["over cold starts", "p", "p (Holm)", "shown"]
    tables = []
    for dial in study.dials:
        found = {c.arm: c for c in compared if (c.metric, c.other, c.dial) == (PRIMARY, study.baseline, dial)}
        lines = []
        for name, arm in study.arms.items():
            if arm.same_as is not None:
                lines.append([name, arm.title, f"as {arm.same_as}", *[_NONE] * (len(columns) - 3)])
                continue
            own = of_arms.get((dial, name))
            first = [name, arm.title, str(study.rollouts(name)), str(own.n if own else 0), _mean(own)]
            lines.append([*first, *_primary_cells(found.get(name))])
        tables.append({"title": f"Dial {dial:g}", "columns": columns, "rows": lines})
    return tables


def control_tables(study: Study, compared: Sequence[Comparison]) -> list[Table]:
    """For each dial: each arm minus each of its `controls` (see `Arm`), in the primary metric and in eval/multi."""
    columns = ["metric", "arm", "minus", "difference", "over seeds", "pairs", "p", "over cold starts", "p"]
    tables = []
    for dial in study.dials:
        found = [c for c in compared if c.metric in _OF_CONTROLS and c.other != study.baseline and c.dial == dial]
        lines = [[_OF_CONTROLS[c.metric], c.arm, c.other, *_control_cells(c)] for c in found]
        if lines:
            tables.append({"title": f"Dial {dial:g}", "columns": columns, "rows": lines})
    return tables


def secondary_tables(study: Study, rows: Sequence[Row], compared: Sequence[Comparison]) -> list[Table]:
    """For each dial: a row for each metric, a column for each arm."""
    arms = [name for name, arm in study.arms.items() if arm.same_as is None]
    by_key = {(c.dial, c.arm, c.metric): c for c in compared if c.other == study.baseline}
    by_metric = {metric: means(study, rows, metric) for metric in SECONDARY}
    tables = []
    for dial in study.dials:
        shown = [arm for arm in arms if any((dial, arm) in found for found in by_metric.values())]
        lines = []
        for metric, label in SECONDARY.items():
            found = by_metric[metric]
            cells = [_mean(found.get((dial, arm))) + _bracket(by_key.get((dial, arm, metric))) for arm in shown]
            if any((dial, arm) in found for arm in shown):
                lines.append([label, *cells])
        if lines:
            tables.append({"title": f"Dial {dial:g}", "columns": ["metric", *shown], "rows": lines})
    return tables


def shown(comparison: Comparison) -> str:
    """What a primary comparison shows at the level of 5 %, corrected for the number of primary comparisons.

    "yes" needs a significant test with one value per cold start (the mean of its differences). If only the test with
    one value per seed is significant, the result is "for these cold starts", as several seeds share a cold start.
    """
    if not comparison.primary:
        return "secondary"
    if comparison.difference.pairs.p is None:
        return _NONE
    if comparison.starts_p_holm is not None and comparison.starts_p_holm < _LEVEL:
        return "yes"
    if comparison.p_holm is not None and comparison.p_holm < _LEVEL:
        return "for these cold starts"
    return "no"


def _primary_cells(comparison: Comparison | None) -> list[str]:
    """Difference; interval, pairs, p, adjusted p over seeds; interval, p, adjusted p over cold starts; `shown`."""
    if comparison is None:
        return [_NONE] * 9
    seeds, starts = _over_seeds(comparison), _over_starts(comparison)
    return [*seeds, _p(comparison.p_holm), *starts, _p(comparison.starts_p_holm), shown(comparison)]


def _control_cells(comparison: Comparison) -> list[str]:
    return [*_over_seeds(comparison), *_over_starts(comparison)]


def _over_seeds(comparison: Comparison) -> list[str]:
    pairs = comparison.difference.pairs
    mean = f"{pairs.mean:+.4f}" + ("" if pairs.se is None else f" ± {pairs.se:.4f}")
    return [mean, _interval(pairs), str(pairs.n), _p(pairs.p)]


def _over_starts(comparison: Comparison) -> list[str]:
    starts = comparison.difference.starts
    return [_NONE, _NONE] if starts is None else [f"{_interval(starts)} ({starts.n})", _p(starts.p)]


def _mean(of_arm: Estimate | None) -> str:
    if of_arm is None:
        return _NONE
    return f"{of_arm.mean:.3f}" + ("" if of_arm.se is None else f" ± {of_arm.se:.3f}")


def _interval(found: Estimate) -> str:
    return _NONE if found.low is None or found.high is None else f"[{found.low:+.4f}, {found.high:+.4f}]"


def _bracket(comparison: Comparison | None) -> str:
    pairs = None if comparison is None else comparison.difference.pairs
    if pairs is None or pairs.low is None or pairs.high is None:
        return ""
    return f" [{pairs.low:+.3f}, {pairs.high:+.3f}]"


def _p(value: float | None) -> str:
    return _NONE if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
