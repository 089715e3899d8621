"""The table of docs/coming_from.md, and the messages that the page shows."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from mars.config.keys import leaves
from mars.config.load import load_config
from mars.config.names_table import FIRST, LAST, table, with_table
from mars.config.schema import TrainConfig
from mars.config.verl_names import LIBRARIES
from mars.errors import ConfigError

PAGE = (Path(__file__).parents[3] / "docs" / "coming_from.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in table([*leaves(TrainConfig)]).splitlines()[2:]
]


def test_each_name_of_a_library_is_in_its_column_once():
    for column, (library, names) in enumerate(LIBRARIES.items(), start=1):
        listed = Counter(name for row in ROWS for name in row[column].split("<br>") if name)
        assert listed == Counter(list(names)), library


def test_a_row_has_the_names_of_all_libraries():
    (row,) = [row for row in ROWS if row[0] == "`rollout.samples_per_prompt`"]
    assert row == [
        "`rollout.samples_per_prompt`",
        "actor_rollout_ref.rollout.n",
        "worker.rollout.n",
        "num_generations",
        "",
    ]
    (row,) = [row for row in ROWS if row[3] == "epsilon"]
    assert row[0] == "`algorithm.clip_low` and `algorithm.clip_high`"
    (row,) = [row for row in ROWS if row[3] == "ref_model_mixup_alpha"]
    assert row == ["`algorithm.reference_decay`", "", "", "ref_model_mixup_alpha", "1 - alpha"]


def test_rows_are_in_the_order_of_the_settings_and_names_without_one_come_last():
    ours = [row[0] for row in ROWS]
    assert (
        ours.index("`run.seed`") < ours.index("`data.shuffle`") < ours.index("`evaluation.every`") < ours.index("none")
    )
    assert set(ours[ours.index("none") :]) == {"none"}
    assert all(row[4] for row in ROWS if row[0] == "none"), "why mars has no such setting"


def test_a_page_gets_the_table_between_its_marks():
    page = with_table(f"a\n{FIRST}\nold\n{LAST}\nb", ["run.seed"])
    assert page.startswith(
        f"a\n{FIRST}\n| mars | verl | EasyR1 | TRL | what differs |\n|---|---|---|---|---|\n| `run.seed`"
    )
    assert page.endswith(f"|\n{LAST}\nb")
    with pytest.raises(ValueError, match="lacks the line <!-- end"):
        with_table(FIRST, [])


def test_the_page_shows_messages_that_mars_gives():
    (block,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    messages = block.splitlines()
    assert len(messages) == 2
    for message in messages:
        with pytest.raises(ConfigError) as error:
            load_config("train", ["data.train_files=[x.parquet]", f"{message.partition(':')[0]}=8"], [])
        assert message in str(error.value)
