from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.evaluation.summary import EvalRecord, eval_metrics, mean_interval, summarize
from mars.evaluation.tables import evaluation_rows
from mars.rewards.contract import ACCURACY, MEAN_IOU
from tests.examples import examples

# Rows of hand arithmetic: prompt, view, accuracy.
ACCURACIES = [
    ("a", None, 1.0),
    ("a", ("visible",), 0.0),
    ("a", ("infrared",), 1.0),  # gain 0.5, best 1: no conflict
    ("b", None, 0.0),
    ("b", ("visible",), 0.0),
    ("b", ("infrared",), 1.0),  # gain -0.5, conflict
    ("c", None, 1.0),
    ("c", ("visible",), 0.0),
    ("c", ("infrared",), 0.0),  # gain 1
    ("d", None, 1.0),  # one source: multi alone
]


def records(rows=ACCURACIES, data_source: str = "set", failed: bool = False, metric=MEAN_IOU) -> list[EvalRecord]:
    return [EvalRecord(prompt, data_source, view, value, failed, metric=metric) for prompt, view, value in rows]


def summary(items: list[EvalRecord], threshold: float | None = None) -> dict:
    return summarize(items, name="before", step=0, model="m", threshold=threshold)


def test_hand_computed_quantities() -> None:
    result = summary(records())
    means = {key: (result[key]["mean"], result[key]["n"]) for key in ("multi", "union", "conflict_rate")}
    assert means == {"multi": (0.75, 4), "union": (2 / 3, 3), "conflict_rate": (1 / 3, 3)}
    assert result["information_gain"]["mean"] == pytest.approx(1 / 3)
    assert {source: (value["mean"], value["n"]) for source, value in result["mono"].items()} == {
        "visible": (0, 3),
        "infrared": (2 / 3, 3),
    }
    # Gains 0.5, -0.5, 1: standard deviation 0.7638, t of 2 degrees of freedom 4.3027: half width 1.897, cut at 1.
    assert result["information_gain"]["low"] == -1
    assert result["information_gain"]["high"] == 1
    assert (result["n"], result["failed"], result["share_over_threshold"]) == (4, 0, None)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_several_answers_are_averaged_per_prompt_and_failures_count_as_wrong() -> None:
    rows = [("a", None, 0.8), ("a", None, 0.4), ("a", ("s",), 0.5), ("b", None, 1.0), ("b", ("s",), 0.0)]
    items = [*records(rows), EvalRecord("b", "set", None, 1.0, True, metric=MEAN_IOU)]
    result = summary(items, threshold=0.4)
    # a: (0.8 + 0.4) / 2 = 0.6; b: (1 + 0) / 2 = 0.5, since the failed reward counts 0.
    assert result["multi"]["mean"] == pytest.approx(0.55)
    assert result["information_gain"]["mean"] == pytest.approx((0.1 + 0.5) / 2)
    assert result["failed"] == 1
    assert result["n"] == 2
    # Over 0.4, strictly: one of two answers of a, one of two of b.
    assert result["share_over_threshold"]["mean"] == pytest.approx(0.5)
    assert result["share_over_threshold"]["threshold"] == 0.4


def test_a_threshold_is_of_boxes_alone() -> None:
    boxes = records([("a", None, 0.6), ("b", None, 0.2)], "boxes")
    words = records([("c", None, 1.0), ("d", None, 1.0), ("e", None, 1.0)], "words", metric=ACCURACY)
    result = summary([*boxes, *words], threshold=0.5)
    assert (result["metric"], result["multi"]["mean"]) == ("accuracy, mean IoU", pytest.approx(3.8 / 5))
    share = result["share_over_threshold"]
    assert (share["mean"], share["n"]) == (0.5, 2)
    of_set = result["by_data_source"]
    assert (of_set["boxes"]["metric"], of_set["boxes"]["share_over_threshold"]) == ("mean IoU", share)
    assert (of_set["words"]["metric"], of_set["words"]["share_over_threshold"]) == ("accuracy", None)


def test_each_data_source_is_summarized_on_its_own() -> None:
    other = [EvalRecord(f"x{number}", "other", None, 0.0, False, metric=ACCURACY) for number in range(4)]
    result = summary([*records(), *other])
    assert result["multi"]["mean"] == pytest.approx(3 / 8)
    assert list(result["by_data_source"]) == ["other", "set"]
    assert result["by_data_source"]["set"] == {
        key: value for key, value in summary(records()).items() if key in result["by_data_source"]["set"]
    }
    assert result["by_data_source"]["other"]["union"] is None
    assert result["by_data_source"]["other"]["information_gain"] is None
    assert result["by_data_source"]["other"]["mono"] == {}


def test_rounding_is_no_conflict() -> None:
    rows = [("a", None, value) for value in (0.1, 0.2, 0.3)] + [("a", ("s",), 0.2)]
    assert summary(records(rows))["conflict_rate"]["mean"] == 0


def test_rounding_lies_above_no_threshold() -> None:
    """An IoU of 0.5 that was computed in another frame is 0.5; 0.500001 is above it."""
    rows = [("a", None, 0.5 + 1e-13), ("b", None, 0.5), ("c", None, 0.500001), ("d", None, 0.1 + 0.4)]
    assert summary(records(rows), threshold=0.5)["share_over_threshold"]["mean"] == 0.25
    small = [("a", None, 0.5), ("a", ("s",), 0.500001), ("b", None, 0.5), ("b", ("s",), 0.5 + 1e-13)]
    assert summary(records(small))["conflict_rate"]["mean"] == 0.5


@pytest.mark.parametrize(
    ("values", "bounds", "low", "high"),
    [
        # Wilson: centre (p + z^2/2n) / (1 + z^2/n), z^2 = 3.8415.
        ([1.0] * 5 + [0.0] * 5, (0, 1), 0.23659, 0.76341),
        ([1.0] * 1 + [0.0] * 9, (0, 1), 0.01788, 0.40415),
        ([0.0] * 10, (0, 1), 0.0, 0.27753),
        ([1.0] * 10, (0, 1), 0.72247, 1.0),
        ([1.0], (0, 1), 0.20654, 1.0),
        # Wilson on the range -1 to 1: 2 p - 1 of the first line.
        ([1.0] * 5 + [-1.0] * 5, (-1, 1), -0.52682, 0.52682),
        # Student: 0.5 +- 3.18245 * 0.258199 / 2.
        ([0.2, 0.4, 0.6, 0.8], (0, 1), 0.08915, 0.91085),
        ([0.1, 0.9], (0, 1), 0.0, 1.0),
        # No spread: z^2 / (n + z^2) = 0.27753 of the others may be anything.
        ([0.25] * 10, (0, 1), 0.25 - 0.27753 * 0.25, 0.25 + 0.27753 * 0.75),
        ([0.0] * 10, (-1, 1), -0.27753, 0.27753),
        # Exact boxes scaled from another frame are exact but for rounding: no spread, and a proportion.
        ([1.0, 1.0 - 1e-13] * 5, (0, 1), 0.72247, 1.0),
        ([1.0 - 1e-13] * 5 + [0.0] * 5, (0, 1), 0.23659, 0.76341),
    ],
)
def test_hand_computed_intervals(values: list[float], bounds: tuple[int, int], low: float, high: float) -> None:
    interval = mean_interval(values, *bounds)
    assert interval["mean"] == pytest.approx(sum(values) / len(values))
    assert interval["low"] == pytest.approx(low, abs=2e-5)
    assert interval["high"] == pytest.approx(high, abs=2e-5)
    assert interval["n"] == len(values)


def test_no_values_have_no_interval() -> None:
    assert mean_interval([], 0, 1) is None


def test_intervals_cover() -> None:
    """Of 400 samples of 80 prompts, about 95 % of the intervals hold the true mean."""
    generator = np.random.default_rng(0)
    for draw, mean in (
        (lambda: generator.random(80) < 0.3, 0.3),
        (lambda: generator.beta(0.5, 1.0, 80), 1 / 3),
        (lambda: generator.random(80) < 0.02, 0.02),
    ):
        intervals = [mean_interval([float(value) for value in draw()], 0, 1) for _ in range(400)]
        covered = sum(interval["low"] <= mean <= interval["high"] for interval in intervals) / 400
        assert 0.91 <= covered <= 0.99


@examples(60)
@given(st.lists(st.tuples(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=2, max_size=4)), min_size=1, max_size=8))
def test_against_a_slow_reference(prompts: list[tuple[float, list[float]]]) -> None:
    rows = []
    for number, (multi, monos) in enumerate(prompts):
        rows.append((str(number), None, multi))
        rows += [(str(number), (f"view_{k}",), value) for k, value in enumerate(monos)]
    result = summary(records(rows[::-1]))
    multis = np.array([multi for multi, _ in prompts])
    best = np.array([max(monos) for _, monos in prompts])
    gains = multis - np.array([np.mean(monos) for _, monos in prompts])
    assert result["multi"]["mean"] == pytest.approx(multis.mean())
    assert result["union"]["mean"] == pytest.approx(best.mean())
    assert result["information_gain"]["mean"] == pytest.approx(gains.mean(), abs=1e-12)
    assert result["conflict_rate"]["mean"] == pytest.approx((multis < best - 1e-9).mean())
    for key, lowest in (("multi", 0), ("union", 0), ("conflict_rate", 0), ("information_gain", -1)):
        value = result[key]
        assert lowest <= value["low"] + 1e-12
        assert value["low"] <= value["mean"] + 1e-12
        assert value["mean"] <= value["high"] + 1e-12
        assert value["high"] <= 1 + 1e-12


def test_metrics_of_a_result() -> None:
    metrics = eval_metrics({**summary(records(), threshold=0.5), "unreadable": {}})
    assert metrics == {
        "eval/multi/mean": 0.75,
        "eval/union/mean": 2 / 3,
        "eval/information_gain/mean": pytest.approx(1 / 3),
        "eval/conflict_rate/mean": 1 / 3,
        "eval/share_over_threshold/mean": 0.75,
        "eval/mono/visible/mean": 0,
        "eval/mono/infrared/mean": 2 / 3,
        "eval/failed": 0,
        "eval/unreadable": 0,
    }


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, math.nan, math.inf])
def test_accuracies_outside_their_range_are_refused(accuracy: float) -> None:
    with pytest.raises(ValueError, match="prompt a: accuracy must be in"):
        EvalRecord("a", "set", None, accuracy, False, metric=ACCURACY)


def test_what_cannot_be_summarized_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one record"):
        summary([])
    with pytest.raises(ValueError, match="prompt b: no answer to its multi view"):
        summary(records([("a", None, 1.0), ("b", ("s",), 1.0)]))
    with pytest.raises(ValueError, match="a view shows one source or more"):
        EvalRecord("a", "set", (), 1.0, False, metric=ACCURACY)


def test_anchors_of_several_sources_count_like_mono_views() -> None:
    """Gain 0.5 - (1 + 0.5) / 2 = -0.25, in conflict with the better anchor."""
    result = summary(records([("a", None, 0.5), ("a", ("rgb", "depth"), 1.0), ("a", ("rgb", "thermal"), 0.5)]))
    assert {name: value["mean"] for name, value in result["mono"].items()} == {"rgb+depth": 1.0, "rgb+thermal": 0.5}
    assert (result["union"]["mean"], result["conflict_rate"]["mean"]) == (1.0, 1.0)
    assert result["information_gain"]["mean"] == -0.25
    assert "Only rgb+depth" in dict(evaluation_rows([result]))
