"""Scores that shapings and penalties make unusable: what the log says of them, and how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from mars.algorithms.penalties import OverlongPenalty
from mars.hooks.step_hooks import Named
from tests.builders import make_prompt, make_rollouts
from tests.fakes.step import IMAGE, TableScorer, one_step, parts
from tests.fakes.trainer import RecordingTrainer
from tests.hook_builders import step_hooks
from tests.unit.test_step import make_table

ITEM = make_rollouts("x", [1.0, None, 0.5], s0=[0.25])
NAN = float("nan")


@dataclass
class Always:
    """Gives every multi response the same amount."""

    amount: float
    part: str = "own"
    on: str = "multi"

    def __call__(self, item, facts):
        return [self.amount] * len(item.multi.rollouts)


def hooks_of(*amounts):
    shaping = [Always(amount, f"p{i}") for i, amount in enumerate(amounts)]
    return step_hooks(num_steps=9, shaping=tuple(Named(f"own:{each.part}", each, None) for each in shaping))


def prompts():
    return [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(2)]


def logged(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def test_a_shaping_is_logged_once_with_its_part_and_a_row(caplog):
    hooks = hooks_of(0.5, NAN, 0.5)
    for step in (1, 2):
        hooks.shaped([ITEM], step)
    assert logged(caplog) == [
        "recipe.shaping: own:p1: score with p1 is not in [-1e+06, 1e+06]; got nan for a response to rows.jsonl:x; the "
        "sample is masked; this is logged once"
    ]


def test_each_shaping_that_fails_scores_is_named(caplog):
    """10^6 - 0.5 + 1 is beyond the bound for the first response, 10^6 - 2 + 1 is not for the second."""
    item = make_rollouts("y", [1e6 - 0.5, 1e6 - 2])
    (shaped,) = hooks_of(1.0, NAN).shaped([item], 1)
    assert [text.partition(";")[0] for text in logged(caplog)] == [
        f"recipe.shaping: own:p{i}: score with p{i} is not in [-1e+06, 1e+06]" for i in (0, 1)
    ]
    assert "got 1000000.5 " in logged(caplog)[0]
    assert not shaped.multi.valid


def test_failures_of_the_reward_and_usable_scores_are_not_logged(caplog):
    hooks_of(0.5).shaped([ITEM], 1)
    assert not caplog.records


def test_a_run_whose_scores_all_fail_says_so_in_each_step(caplog):
    rows = prompts()
    made = replace(parts(make_table(rows, random.Random(0))), hooks=hooks_of(NAN))
    for step in (1, 2):
        result = one_step(made, rows, step=step)
        assert result.metrics["reward/failed"] == 8
    reason = "score with p0 is not in [-1e+06, 1e+06]; got nan"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        f"step {step}: all 8 responses to multi prompts failed, so nothing is learnt from them; the first: {reason}"
        for step in (1, 2)
    ]
    assert len(logged(caplog)) == 1


def test_one_usable_response_is_no_failed_step(caplog):
    rows = prompts()
    table = dict.fromkeys(make_table(rows, random.Random(0))) | {("p1", None, 2): 0.5}
    one_step(parts(table), rows)
    assert not caplog.records


def test_a_penalty_that_takes_scores_out_of_range_is_named(caplog):
    """Lengths 1 to 5 and EOS, of which at most 5 are free: the longest of each prompt gets less than -10^6."""
    rows = prompts()
    table = dict.fromkeys(make_table(rows, random.Random(0)), -1e6)
    made = parts(table, scorer=TableScorer(table), overlong=OverlongPenalty(6, 2, 1.0), anchor="none")
    one_step(made, rows)
    assert logged(caplog) == [
        "algorithm.overlong_factor: score with overlong_penalty is not in [-1e+06, 1e+06]; got -1000000.5 for a "
        "response to rows.jsonl:p0; the sample is masked; this is logged once"
    ]


def test_a_kl_that_is_not_finite_is_named(caplog):
    rows = prompts()
    table = make_table(rows, random.Random(0))
    trainer = RecordingTrainer()
    trainer.kl_per_token["p0"] = NAN
    one_step(parts(table, trainer=trainer, kl_in_reward=0.5), rows)
    assert [text.partition(" is")[0] for text in logged(caplog)] == ["algorithm.kl_coefficient: score with kl_penalty"]
