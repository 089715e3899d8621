"""What does not go together with sampling ahead, each with its reason."""

from __future__ import annotations

import pytest

from mars import run
from mars.config.load import load_config
from mars.data.order.stream import PromptStream
from tests.builders import make_prompt
from tests.unit.config.test_config_load import FILES, the_problem


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["cluster=local"], "rollout.max_staleness: cluster.kind=local has engine and trainer in one process"),
        (
            ["cluster.placement=colocated"],
            "rollout.max_staleness: cluster.placement=colocated has one of engine and trainer",
        ),
        (
            ["algorithm=rloo"],
            "rollout.max_staleness: algorithm.kl_placement=reward needs the KL of the weights that sampled",
        ),
        (
            ["rollout.weight_transfer=broadcast"],
            "rollout.weight_transfer: with schedule=asynchronous an engine",
        ),
        (["rollout.max_staleness=null"], "rollout.max_staleness: wrong type; got null; give an integer >= 0 and <= 2"),
        (["rollout.max_staleness=2"], "rollout.max_staleness: algorithm.selection=all carries no prompts"),
        (["rollout.max_staleness=3"], "rollout.max_staleness: out of range; got 3; give an integer >= 0 and <= 2"),
    ],
)
def test_what_does_not_fit(overrides, start):
    assert the_problem("schedule=asynchronous", *overrides).startswith(start)


def test_a_cap_of_the_algorithm_is_not_replaced(tmp_path):
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "mine.yaml").write_text("defaults: [grpo]\nimportance_cap: 5.0\nimportance_mode: mask\n")
    for schedule in ("synchronous", "asynchronous"):
        for given in (["algorithm=mine", f"schedule={schedule}"], [f"schedule={schedule}", "algorithm=mine"]):
            assert load_config("train", [FILES, *given], [str(tmp_path)]).algorithm.importance_cap == 5.0


ALARM = "rollout.logprob_diff_alarm=0.5: with schedule=asynchronous it works in the first step only"


@pytest.mark.parametrize(
    ("overrides", "warnings"),
    [
        (["schedule=asynchronous"], [ALARM]),
        (["rollout.max_staleness=1"], ["algorithm.importance_cap is null", ALARM]),
        (["schedule=asynchronous", "algorithm=dapo"], ["rollout.max_staleness is 1: kept prompts beyond", ALARM]),
        (["schedule=asynchronous", "algorithm=dapo", "rollout.max_staleness=2"], [ALARM]),
        (["algorithm=dapo"], []),
    ],
)
def test_a_run_warns_once_of_what_is_not_corrected_and_of_what_is_left_out(overrides, warnings, caplog):
    run._train_step(load_config("train", [FILES, *overrides], []), PromptStream([make_prompt("p0", [])], 1, 0, True))
    assert [record.message.startswith(start) for record, start in zip(caplog.records, warnings, strict=True)] == [
        True for _ in warnings
    ]


def test_the_group_sets_what_belongs_to_it_whatever_the_algorithm_and_the_user_has_the_last_word():
    config = load_config("train", [FILES, "schedule=asynchronous", "algorithm=dapo"], [])
    assert (config.rollout.schedule, config.rollout.max_staleness) == ("asynchronous", 1)
    assert config.algorithm.importance_cap == 2.0
    changed = ["algorithm.importance_cap=null", "rollout.max_staleness=2"]
    config = load_config("train", [FILES, *changed, "schedule=asynchronous", "algorithm=dapo"], [])
    assert (config.algorithm.importance_cap, config.rollout.max_staleness) == (None, 2)
    plain = load_config("train", [FILES], [])
    assert (plain.rollout.schedule, plain.rollout.max_staleness) == ("synchronous", 0)
    assert plain.algorithm.importance_cap is None
