"""Prompts that do not say how to answer: they are counted, and a warning says so where nobody asked for it."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest

from mars.config.templates import template_file, template_folder
from mars.data.prompts.budget import ImageBudget
from mars.data.prompts.prepare import RowSettings, prepare_rows, warn_of_silent_prompts
from mars.data.prompts.templates import PromptTemplate

SILENT, TOLD = "Is there a bus?", "Is there a bus? Write <think> and <answer> tags."


@pytest.fixture
def prepare(tmp_path):
    """(questions, name of the template) -> the prepared rows."""

    def run(questions, template):
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps({"prompt": text, "answer": "yes"}) + "\n" for text in questions))
        file = template_file(template, None)
        made = file and PromptTemplate(file, template_folder(), box_space="norm_1000", model_type="qwen3_vl")
        settings = RowSettings(
            image_root=None, check_truth=lambda prompt: None, needs_response=False, images_per_row=None,
            decode_images=False, source_budgets={}, budget=ImageBudget(784, 50176, 14, 2),
            template_of=lambda prompt: made, encoder=SimpleNamespace(encode=lambda messages, images: (1, 2)),
            image_layout="single", max_prompt_tokens=100,
        )  # fmt: skip
        return prepare_rows([str(rows)], settings)

    return run


def test_rows_are_counted_by_the_template_that_they_get(prepare):
    with_template, without = prepare([SILENT, TOLD, SILENT], "vqa"), prepare([SILENT, TOLD, SILENT], "none")
    assert (with_template.num_instructing, with_template.templates) == (1, {"vqa": 2})
    assert (without.num_instructing, without.templates) == (1, {"none": 2})


@pytest.mark.parametrize(
    ("questions", "template", "warns"),
    [
        ([SILENT, SILENT], "none", True),
        ([SILENT, TOLD], "none", False),
        ([TOLD, TOLD], "none", False),
        ([SILENT, SILENT], "vqa", False),
    ],
)
def test_a_warning_if_no_prompt_says_how_to_answer(prepare, caplog, questions, template, warns):
    with caplog.at_level(logging.WARNING, "mars"):
        warn_of_silent_prompts([prepare(questions, template)])
    assert ("data.template=vqa adds how to answer" in caplog.text) == warns
    assert ("(2 rows)" in caplog.text) == warns


def test_a_held_out_row_that_says_how_to_answer_is_enough(prepare, caplog):
    with caplog.at_level(logging.WARNING, "mars"):
        warn_of_silent_prompts([prepare([SILENT], "none"), prepare([TOLD], "none")])
    assert not caplog.records
