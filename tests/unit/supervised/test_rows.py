"""What a cold start says about its rows before it begins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mars.config.load import load_config
from mars.data.prompts.prepare import PromptSet
from mars.errors import ConfigError
from mars.supervised import rows
from mars.supervised.dry_run import summary
from mars.supervised.rows import SupervisedRows, load_rows, warmup_warning
from tests.builders import IMAGE, make_prompt


def rows_of(count, dropped):
    prompts = tuple(make_prompt(f"p{i}", [IMAGE], response="yes") for i in range(count))
    return PromptSet(prompts, dropped, "", {prompt.row: 10 for prompt in prompts})


def lines_of(held_out, *overrides):
    config = load_config("sft", ["data.train_files=[x]", "sft.batch_size=2", "run.num_steps=4", *overrides], [])
    form = SimpleNamespace(encoder=SimpleNamespace(encode_response=lambda text: (1, 2), opening=""))
    return dict(line.split(maxsplit=2)[::2] for line in summary(config, SupervisedRows(form, rows_of(4, {}), held_out)))


def test_dropped_rows_of_both_sets_are_counted():
    lines = lines_of(rows_of(2, {"image_missing": 3, "response": 1}))
    assert lines["training"] == "4 rows with a response, 0 dropped"
    assert lines["held-out"] == "2 rows with a response, 4 dropped {'image_missing': 3, 'response': 1}"
    assert lines_of(None)["held-out"] == "none"


def test_a_warm_up_as_long_as_the_run_is_warned_of():
    """Step i of n has the rate i / (warm-up + 1) while it rises: 4 / 5 after the last of 4 with a warm-up of 4."""
    assert warmup_warning(3, last=4) is None
    warning = warmup_warning(4, last=4)
    assert warning.startswith(
        "sft.warmup_steps: not below the run's 4 steps, so the learning rate only rises, to 80% of"
    )
    assert "warning" in lines_of(None, "sft.warmup_steps=4")
    assert "warning" not in lines_of(None, "sft.warmup_steps=3")


@pytest.mark.parametrize("size", [3, 4])
def test_a_step_of_more_rows_than_there_are_is_refused_when_the_rows_are_read(monkeypatch, size):
    """Before the check of the model has ended, for which a job waits after `load_rows`."""
    prepared = SimpleNamespace(problems=(), num_rows=3, usable=lambda on_bad_sample: rows_of(3, {}))
    for name in ("prompt_format", "row_settings", "check_limits"):
        monkeypatch.setattr(rows, name, lambda *given: SimpleNamespace(budget=None))
    monkeypatch.setattr(rows, "prepare_files", lambda sets: {"train": prepared})
    config = load_config("sft", ["data.train_files=[x]", f"sft.batch_size={size}"], [])
    if size == 3:
        assert len(load_rows(config).train.prompts) == 3
        return
    with pytest.raises(ConfigError, match=r"^sft\.batch_size: .*; got 4 with 3 rows; set it to 3 or less"):
        load_rows(config)
