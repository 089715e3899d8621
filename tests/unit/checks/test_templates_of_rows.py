"""`mars data check` says which template the rows get."""

import pytest

from mars.checks.data import CheckResult, check_lines
from mars.config.load import load_config

OWN = "none for {} rows, whose text says how to answer"
SILENT = "none for {} rows, whose text does not say how to answer"


@pytest.mark.parametrize(
    ("templates", "num_instructing", "shown"),
    [
        ({"vqa": 20}, 0, "vqa for 20 rows"),
        ({"vqa": 18}, 2, f"vqa for 18 rows, {OWN.format(2)}"),
        ({"none": 20}, 0, SILENT.format(20)),
        ({"vqa": 5, "own.jinja": 4, "none": 3}, 2, f"own.jinja for 4 rows, vqa for 5 rows, {OWN.format(2)}, "
         f"{SILENT.format(3)}"),
    ],
)  # fmt: skip
def test_the_template_of_the_rows_is_named_with_their_number(templates, num_instructing, shown):
    result = CheckResult(
        num_rows=20, rendered=(), problems=[], overlong=[], lengths={}, image_tokens={}, repeated=0, num_mono=0,
        unshown={}, num_instructing=num_instructing, templates=templates, num_decoded=0, seconds=1.0,
    )  # fmt: skip
    lines = check_lines(result, load_config("train", ["data.train_files=[rows.jsonl]"], []))
    assert f"template       {shown}" in lines
