"""A chat template that takes some rows and not others: the others are bad. One that takes none is itself wrong."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
from PIL import Image

from mars.data.prompts.budget import ImageBudget
from mars.data.prompts.chat_template import TemplateFailure
from mars.data.prompts.prepare import RowSettings, prepare_rows
from mars.errors import DataError

SYSTEM, USER, AGAIN = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is there a bus?"}, [
    {"role": "user", "content": "Look."}, {"role": "user", "content": "Is there a bus?"},
]  # fmt: skip


def encoder(refuses):
    """refuses: (messages, number of images) -> whether the chat template fails."""

    def encode(messages, num_images):
        if refuses(messages, num_images):
            raise TemplateFailure("model.path: chat_template.jinja: the chat template fails")
        return (1, 2, *(9,) * num_images)

    return SimpleNamespace(encode=encode)


@pytest.fixture
def prepare(tmp_path):
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")

    def run(refuses, *prompts):
        rows = [{"prompt": prompt, "answer": "yes", "images": ["a.png"] * str(prompt).count("<image>")}
                for prompt in prompts]  # fmt: skip
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = RowSettings(
            image_root=None, check_truth=lambda prompt: None, needs_response=False, images_per_row=None,
            decode_images=False, source_budgets={}, budget=ImageBudget(784, 50176, 14, 2),
            template_of=lambda prompt: None, encoder=encoder(refuses), image_layout="single", max_prompt_tokens=100,
        )  # fmt: skip
        return prepare_rows([str(tmp_path / "rows.jsonl")], settings)

    return run


def no_system(messages, num_images):
    return messages[0].role == "system"


def alternation(messages, num_images):
    return any(one.role == two.role for one, two in pairwise(messages))


@pytest.mark.parametrize(("refuses", "bad"), [(no_system, [SYSTEM, USER]), (alternation, AGAIN)])
def test_rows_that_the_template_does_not_take_are_bad(prepare, refuses, bad):
    prepared = prepare(refuses, [USER], bad, [USER], bad)
    assert [(problem.row.rpartition(":")[2], problem.reason) for problem in prepared.problems] == [
        ("1", "chat_template"), ("3", "chat_template"),
    ]  # fmt: skip
    kept = prepared.usable("drop")
    assert (len(kept.prompts), kept.dropped) == (2, {"chat_template": 2})
    with pytest.raises(DataError, match=r"chat_template .* the chat template fails"):
        prepared.usable("error")


@pytest.mark.parametrize("number", [1, 3])
def test_a_template_that_takes_no_row_is_wrong(prepare, number):
    with pytest.raises(TemplateFailure, match=r"chat_template\.jinja"):
        prepare(no_system, *[[SYSTEM, USER]] * number)


def test_a_row_that_is_bad_for_another_reason_does_not_speak_for_the_template(prepare):
    with pytest.raises(TemplateFailure):
        prepare(no_system, [SYSTEM, USER], [{"role": "tool", "content": "q"}])


def test_a_template_without_images_is_wrong_although_it_takes_rows_without_them(prepare):
    """Dropping every row with an image would leave a training on texts."""
    shown = {"role": "user", "content": "<image>Is there a bus?"}
    with pytest.raises(TemplateFailure):
        prepare(lambda messages, num_images: num_images > 0, [USER], [shown])
    prepared = prepare(no_system, [shown], [SYSTEM, USER])
    assert prepared.usable("drop").dropped == {"chat_template": 1}
