"""recipe/effect/document.py: the tables of docs/effect.md are those of the results in the repository."""

from __future__ import annotations

import re

import pytest

from mars.errors import DataError
from recipe.effect.document import DOCUMENT, RESULTS_FOLDER, main, page, tables
from recipe.effect.study import SEEDS_FOR_TUNING
from recipe.effect.tables import read_results, write_results
from tests.shipped.recipes.effect_study import GRPO, MARS, study_file

PLACE = "before\n<!-- tables of recipe/effect/results -->\nold\n<!-- end of the tables -->\nafter\n"


@pytest.fixture
def results(tmp_path):
    study_file(tmp_path, arms={"grpo": GRPO, "mars": MARS, "unused": MARS}).rename(tmp_path / "study.yaml")
    scores = {"grpo": [0.1, 0.5, 0.9], "mars": [0.2, 0.7, 1.2]}
    rows = [
        {"dial": 0.5, "arm": arm, "seed": seed, "cold_start": 1 + seed, "primary": value, "eval/multi": value / 2}
        for arm, values in scores.items()
        for seed, value in enumerate(values)
    ]
    write_results(tmp_path / "results.csv", rows)
    return tmp_path


def test_the_tables_have_the_differences_and_no_arm_without_runs(results):
    text = tables(results)
    assert text.startswith("6 runs.\n\n### Primary metric (4 primary comparisons)")
    # 0.1, 0.2, 0.3: mean 0.2, se 0.0577, t(2, 0.975) = 4.303; p = 0.0742, of 4 comparisons 0.297
    of_mars = r"\| MARS \| 3 \| 0.700 ± 0.289 \| \+0.2000 ± 0.0577 \| \[-0.0484, \+0.4484\] \| 0.074 \| 0.297 \|"
    assert re.search(of_mars, text)
    assert "| evaluation: multi | 0.250 ± 0.115 | 0.350 ± 0.144 [-0.024, +0.224] |" in text
    assert "unused" not in text
    assert "Dial 1" not in text


def test_the_page_keeps_all_that_is_not_a_table(results):
    text = page(PLACE, results)
    assert text.startswith("before\n<!-- tables of recipe/effect/results -->\n6 runs.")
    assert text.endswith("<!-- end of the tables -->\nafter\n")
    assert page(text, results) == text
    with pytest.raises(DataError, match="no place for the tables"):
        page("text\n", results)


def test_the_page_of_the_project_has_the_tables_of_its_results():
    assert main(["--check"]) == 0, f"{DOCUMENT}: run python -m recipe.effect.document"


def test_the_results_of_the_project_are_of_seeds_for_results():
    assert all(row["seed"] < SEEDS_FOR_TUNING for row in read_results(RESULTS_FOLDER / "results.csv"))
