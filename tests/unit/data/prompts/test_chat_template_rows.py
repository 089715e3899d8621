"""A chat template that takes some rows and not others: the others are bad. One that takes none is itself wrong."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
from PIL import Image

from mars.data.prompts.budget import ImageBudget
from mars.data.prompts.chat_template import TemplateFailure
from mars.data.prompts.prepare import RowSettings, prepare_rows
from mars.data.prompts.template_rows import TriedRow, ViewTrial, refuse_chat_template
from mars.data.prompts.views import anchor_views
from mars.errors import DataError
from mars.types import ImageRef, Message, Prompt, Source

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
        prepared = prepare_rows([str(tmp_path / "rows.jsonl")], settings)
        refuse_chat_template(prepared.tried)
        return prepared

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


def test_all_sets_of_a_job_speak_for_the_template():
    """A held-out set of which the template takes no row has bad rows, if it takes those of the training set."""
    failure = TemplateFailure("no")
    refused, taken = TriedRow(False, failure), TriedRow(False, None)
    refuse_chat_template([])
    refuse_chat_template([taken, refused, refused])
    refuse_chat_template([TriedRow(True, None), TriedRow(True, failure), refused])
    for rows in ([refused], [taken, TriedRow(True, failure)]):
        with pytest.raises(TemplateFailure):
            refuse_chat_template(rows)


def test_views_are_tried_once_for_each_form():
    """Two images pass and one does not, as in a template that was written for pairs."""
    asked = []

    def encode(messages, num_images):
        asked.append(messages[-1].text)
        if num_images == 1:
            raise TemplateFailure("two, please")

    def pair(row, text):
        sources = [Source(name, ImageRef("a.png", (9, 9))) for name in ("visible", "infrared", "depth")]
        return Prompt(row, row, "s", (Message("user", text),), tuple(sources[: text.count("<image>")]), "yes")

    trial = ViewTrial(lambda prompt: anchor_views(prompt, "mono"), "single", SimpleNamespace(encode=encode))
    for number in range(3):
        with pytest.raises(TemplateFailure, match="two, please"):
            trial.check(pair(str(number), f"<image><image>Is there a bus {number}?"))
    assert asked == ["<image>Is there a bus 0?"]
    trial.check(pair("one", "<image>What?"))  # has no views
    trial = ViewTrial(lambda prompt: anchor_views(prompt, "all_but_one"), "single", SimpleNamespace(encode=encode))
    trial.check(pair("three", "<image><image><image>What?"))
    assert asked[1:] == ["<image><image>What?"]
