"""recipe/effect: the rollouts of a run are counted in every step, and for every prompt that was written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mars.errors import DataError
from recipe.effect.counts import RolloutCount, Wanted, count_rollouts, per_prompt
from tests.fakes.effect_train import step_rollouts, write_run

WANTED = Wanted(budget=10, uneven=False, steps=4, every=2, prompts=2)
# Three prompts in each of four steps; the rollouts of two of them are written in the steps 1, 2 and 4.
GOOD = RolloutCount(dict.fromkeys(range(1, 5), (30, 3)), {1: [10, 10], 2: [10, 10], 4: [10, 10]}, 0)


def test_rollouts_of_a_step_are_counted_per_prompt():
    assert per_prompt(step_rollouts(1, multi=8, anchors=1, right=0)) == [10, 10, 10]


def test_a_run_that_keeps_to_its_budget():
    assert GOOD.problem(WANTED) is None
    assert GOOD.per_prompt == 10


def test_steps_whose_rollouts_are_written():
    assert WANTED.written_steps() == [1, 2, 4]
    assert replace(WANTED, every=3).written_steps() == [1, 3]
    assert replace(WANTED, every=1000).written_steps() == [1]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"generated": {**GOOD.generated, 3: (29, 3)}}, "want 10; got 29 for 3 prompts in step 3"),
        ({"generated": {**GOOD.generated, 3: (None, 3)}}, "metrics.jsonl has no rollout/responses of step 3"),
        ({"generated": {1: (30, 3), 2: (30, 3)}}, "metrics.jsonl has no rollout/responses of step 3"),
        ({"written": {**GOOD.written, 2: [9, 10]}}, "want 10; got 9, 10 in the file of step 2"),
        ({"written": {**GOOD.written, 2: [10]}}, "want those of 2 prompts in the file of step 2; got 1"),
        ({"written": {1: [10, 10], 4: [10, 10]}}, "want those of 2 prompts in the file of step 2; got 0"),
        ({"probes": 3}, "a sampler has added probes in 3 steps; want 10 and no more"),
    ],
)
def test_what_does_not_keep_to_the_budget_is_refused(changes, problem):
    assert problem in str(replace(GOOD, **changes).problem(WANTED))


def test_a_run_that_writes_no_rollouts_cannot_be_counted():
    assert "none were written" in str(GOOD.problem(replace(WANTED, every=0)))


def test_prompts_with_different_numbers_keep_to_the_budget_together():
    whole = replace(WANTED, uneven=True, prompts=3)
    uneven = replace(GOOD, written={1: [10, 10, 10], 2: [6, 6, 18], 4: [9, 10, 11]})
    assert uneven.problem(whole) is None
    assert "got 6, 18 in the file of step 2" in str(uneven.problem(replace(whole, uneven=False)))
    fewer = replace(uneven, written={**uneven.written, 2: [6, 6, 17]})
    assert "want 30 rollouts in the file of step 2; got 29" in str(fewer.problem(whole))
    step = replace(uneven, generated={**uneven.generated, 2: (29, 3)})
    assert "want 10; got 29 for 3 prompts in step 2" in str(step.problem(whole))


def test_counts_of_a_run(tmp_path):
    files = {1: step_rollouts(1, 8, 1, 0), 2: step_rollouts(2, 10, 0, 0)}
    write_run(tmp_path, [0.1, 0.2], files, [])
    found = count_rollouts(tmp_path)
    assert found == RolloutCount({1: (30, 3), 2: (30, 3)}, {1: [10, 10, 10], 2: [10, 10, 10]}, 0)


def test_a_step_that_trains_on_carried_prompts_alone_has_generated_nothing(tmp_path):
    write_run(tmp_path, [0.1], {}, [])
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + json.dumps({"step": 2, "mars/prompts_sampled": 0}) + "\n")
    found = count_rollouts(tmp_path)
    assert found.generated == {1: (30, 3), 2: (0, 0)}
    assert found.per_prompt == 10


def test_a_run_without_metrics(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.jsonl: cannot be read"):
        count_rollouts(tmp_path)
