"""Compare the arms of a study, by the primary metric and by the secondary ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recipe.effect.statistics import Difference, Estimate, estimate, holm, paired_difference
from recipe.effect.study import Study

PRIMARY = "primary"
# Key of a run's row -> its name in the report. Keys that no run has are left out of the report.
SECONDARY: Mapping[str, str] = {
    "primary/all": "primary metric, mean of all steps",
    "eval/multi": "evaluation: multi",
    "eval/day/multi": "evaluation: multi, day",
    "eval/night/multi": "evaluation: multi, night",
    "eval/both/multi": "evaluation: multi, both",
    "eval/mono/visible": "evaluation: visible alone",
    "eval/mono/infrared": "evaluation: infrared alone",
    "eval/union": "evaluation: union",
    "eval/information_gain": "evaluation: information gain",
    "eval/conflict_rate": "evaluation: conflict rate",
    "train/day/reward": "training reward, day",
    "train/night/reward": "training reward, night",
    "train/both/reward": "training reward, both",
    "train/night/all_wrong": "night prompts with all multi rollouts wrong",
    "train/day/all_wrong": "day prompts with all multi rollouts wrong",
    "train/mars/frac_zero_signal/window": "prompts without signal",
    "train/reward/frac_zero_std/window": "prompts with equal multi rewards",
    "train/mars/gain/mean/window": "training gain over the anchors",
    "train/mars/conflict_rate/window": "prompts below their best anchor view",
    "train/mars/guide/frac_groups/window": "prompts with a guest",
    "train/mars/guide/rescued/window": "prompts without a right multi response that have a right guest",
    "prompts_sampled": "prompts sampled",
}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """arm minus other at one dial (explained in README.md).

    primary: whether the comparison was fixed as primary before the study.
    p_holm, starts_p_holm: p values of a primary comparison over seeds and over cold starts, adjusted by Holm's method
        for the number of planned primary comparisons (`planned_primary`). None for other comparisons.
    """

    dial: float
    arm: str
    other: str
    metric: str
    primary: bool
    difference: Difference
    p_holm: float | None = None
    starts_p_holm: float | None = None


def planned_primary(study: Study) -> list[tuple[float, str]]:
    """(dial, arm) of each primary comparison of the study, with or without runs."""
    return [(dial, arm) for dial in study.primary.dials for arm in study.primary.arms]


def comparisons(study: Study, rows: Sequence[Row]) -> list[Comparison]:
    """Each arm minus the baseline and minus its controls, by the primary metric and by each secondary one.

    rows: of finished runs, with the keys dial, arm, seed and cold_start. Two runs with the same dial and seed are a
    pair. An arm that chooses its training prompts (`not_comparable`) is compared only by the evaluation. An arm whose
    prompts get different numbers of rollouts (`uneven`) is compared by the evaluation and the primary metric.
    """
    planned, decides = planned_primary(study), (PRIMARY, study.baseline)
    found = [
        Comparison(dial, arm, other, metric, (metric, other) == decides and (dial, arm) in planned, difference)
        for metric in (PRIMARY, *SECONDARY)
        for dial in study.dials
        for arm, other in _pairs_of_arms(study)
        if _compares(study, arm, other, metric)
        if (difference := _difference(rows, dial, arm, other, metric)) is not None
    ]
    return _adjusted(found, len(planned))


def _adjusted(found: Sequence[Comparison], family: int) -> list[Comparison]:
    """The comparisons, with adjusted p values for the primary ones."""
    places = [place for place, comparison in enumerate(found) if comparison.primary]
    differences = [found[place].difference for place in places]
    over_seeds = holm([difference.pairs.p for difference in differences], family)
    over_starts = holm([difference.starts and difference.starts.p for difference in differences], family)
    adjusted = list(found)
    for place, p, starts_p in zip(places, over_seeds, over_starts, strict=True):
        adjusted[place] = replace(found[place], p_holm=p, starts_p_holm=starts_p)
    return adjusted


def means(study: Study, rows: Sequence[Row], metric: str) -> dict[tuple[float, str], Estimate]:
    """(dial, arm) -> mean of a metric over the runs, with its standard error and interval. dial: see README.md."""
    found = {}
    for dial in study.dials:
        for arm in study.arms:
            of_arm = estimate(list(values_by_seed(rows, dial, arm, metric).values()))
            if of_arm is not None:
                found[dial, arm] = of_arm
    return found


def values_by_seed(rows: Sequence[Row], dial: float, arm: str, metric: str) -> dict[int, float]:
    """Seed -> value, for the runs that have the metric."""
    of_arm = [row for row in rows if row["dial"] == dial and row["arm"] == arm]
    return {row["seed"]: row[metric] for row in of_arm if row.get(metric) is not None}


def _pairs_of_arms(study: Study) -> list[tuple[str, str]]:
    own = {name: arm for name, arm in study.arms.items() if arm.same_as is None}
    return [
        (name, other)
        for name, arm in own.items()
        for other in dict.fromkeys([study.baseline, *arm.controls])
        if other != name
    ]


def _compares(study: Study, arm: str, other: str, metric: str) -> bool:
    """Whether the metric means the same in both arms."""
    arms = study.arms[arm], study.arms[other]
    if metric.startswith("eval/"):
        return True
    if not all(of_pair.has_primary for of_pair in arms):
        return False
    return metric.startswith(PRIMARY) or not any(of_pair.uneven for of_pair in arms)


def _difference(rows: Sequence[Row], dial: float, arm: str, other: str, metric: str) -> Difference | None:
    start_of = {row["seed"]: row["cold_start"] for row in rows if row["dial"] == dial}
    one, two = (values_by_seed(rows, dial, name, metric) for name in (arm, other))
    return paired_difference(one, two, start_of)
