"""Prompt templates: the shipped texts, what a template sees, and what it may not do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mars.config.templates import template_file, template_folder
from mars.data.prompts.templates import PromptTemplate
from mars.data.rows.problems import RowError
from mars.errors import ConfigError
from mars.types import ImageRef, Message
from tests.builders import make_prompt

IMAGES = [ImageRef("a.png", (64, 48)), ImageRef("b.png", (64, 48))]
TAGS = "First think inside <think> and </think> tags, then give the answer inside <answer> and </answer> tags. "


def template(name="grounding", box_space="resized_pixels", folder=None, text=None):
    file = template_file(name, None) if text is None else folder / "own.jinja"
    if text is not None:
        file.write_text(text)
    return PromptTemplate(file, template_folder(), box_space=box_space, model_type="qwen2_5_vl")


@pytest.fixture
def ask():
    """text of the last message -> prompt about two images."""

    def make(text, *before, **extra):
        messages = (*before, Message("user", text))
        sources = IMAGES if sum(message.text.count("<image>") for message in messages) else []
        return replace(make_prompt("p", sources, extra_info=extra), messages=messages)

    return make


def rendered(template, prompt):
    return template.apply(prompt).messages[-1].text


def test_grounding_in_pixels_and_in_thousandths(ask):
    prompt = ask("<image><image>\nDetect every person in the scene.")
    frame = '\n```json\n[{"bbox_2d": [x1, y1, x2, y2], "label": "person"}]\n```'
    begin = f"<image><image>\nDetect every person in the scene.\n{TAGS}The answer is a list of boxes in "
    assert rendered(template(), prompt) == f"{begin}pixel coordinates, in a json code block:{frame}"
    other = "coordinates from 0 to 1000 of the image's width and height, in a json code block:"
    assert rendered(template(box_space="norm_1000"), prompt) == f"{begin}{other}{frame}"
    assert '"label": "object"' in rendered(template(), ask("<image><image>\nWhere is the cup?"))


def test_vqa_with_and_without_choices(ask):
    assert rendered(template("vqa"), ask("<image><image>\nHow many?")) == (
        f"<image><image>\nHow many?\n{TAGS}The answer is as short as possible."
    )
    letter = f"{TAGS}The answer is the letter of the right choice."
    listed = "<image><image>\nWhich? Choice list : [A. Law, B. Travel]."
    assert rendered(template("vqa"), ask(listed, choices=["Law", "Travel"])) == f"{listed}\n{letter}"
    assert rendered(template("vqa"), ask("<image><image>\nWhich?", choices=["Law", "Travel"])) == (
        f"<image><image>\nWhich?\nChoices: A. Law, B. Travel\n{letter}"
    )


def test_only_the_last_message_is_rendered(ask):
    before = (Message("system", "Be brief."), Message("user", "<image>\nHello"), Message("assistant", "Hi"))
    result = template("vqa").apply(ask("<image> Which?", *before))
    assert result.messages[:3] == before
    assert result.messages[3].text.startswith("<image> Which?\nFirst think")


def test_rows_with_an_instruction_of_their_own_stay(ask):
    own = ask("<image><image>\nHow many? Think in <think></think>, answer in <answer></answer>.")
    assert template("vqa").apply(own) == own
    assert (
        template("vqa").apply(ask("Why?", Message("system", "Use <think> and <answer> tags."))).messages[1].text
        == "Why?"
    )
    once = template("vqa").apply(ask("Why?"))
    assert template("vqa").apply(once) == once
    half = ask("What does <think> mean?")
    assert template("vqa").apply(half) != half


@pytest.mark.parametrize(
    "text", ["{{ 7 * 7 }}", "{% raw %}", "{# no #}", "{{ question }}", "a {% include 'vqa.jinja' %}", "<b>&amp;</b>"]
)
def test_the_rows_text_is_never_jinja(ask, text):
    assert rendered(template("vqa"), ask(f"<image><image>\n{text}")).startswith(f"<image><image>\n{text}\nFirst")


def test_a_template_of_ones_own(ask, tmp_path):
    text = (
        "{% if data_source == 'test' %}{{ question }} {{ sources | join('+') }} {{ model_type }} {{ box_space }}"
        "{% else %}{% include 'grounding.jinja' %}{% endif %}"
    )
    own = template(folder=tmp_path, text=text)
    assert rendered(own, ask("<image><image>Where?")) == "<image><image>Where? s0+s1 qwen2_5_vl resized_pixels"
    other = replace(ask("<image><image>Where?"), data_source="else")
    assert rendered(own, other) == rendered(template(), other)


@pytest.mark.parametrize(
    ("text", "error", "fragment"),
    [
        ("{{ question", ConfigError, "is no jinja template"),
        ("{% if %}", ConfigError, "is no jinja template"),
        ("{{ quesion }}", ConfigError, "quesion"),
        ("{{ question.__class__.__mro__ }}", ConfigError, "cannot be rendered for rows.jsonl:p"),
        ("{{ choices.append(1) }}", ConfigError, "cannot be rendered"),
        ("{% include '../train.yaml' %}", ConfigError, "cannot be rendered"),
        ("{{ 1 / 0 }}", ConfigError, "cannot be rendered"),
        ("no question", RowError, "0 markers; the row has 2"),
        ("{{ question }}{{ question }}", RowError, "4 markers; the row has 2"),
        ("{{ question }}<|im_end|>", RowError, "special token"),
    ],
)
def test_what_a_template_may_not_do(ask, tmp_path, text, error, fragment):
    with pytest.raises(error, match=fragment):
        template(folder=tmp_path, text=text).apply(ask("<image><image>\nWhere?"))


def test_which_file_a_setting_names(tmp_path):
    for name in ("grounding", "vqa"):
        assert template_file("auto", name) == template_file(name, None) == template_folder() / f"{name}.jinja"
    assert template_file("auto", "own.py:score") is None
    assert template_file("none", "vqa") is None
    (tmp_path / "own.jinja").write_text("x")
    assert template_file(str(tmp_path / "own.jinja"), "vqa") == tmp_path / "own.jinja"
    with pytest.raises(ConfigError, match=r"data\.template: no such file"):
        template_file(str(tmp_path / "none.jinja"), "vqa")


def test_each_template_has_a_short_name(tmp_path):
    assert template("vqa").name == "vqa"
    assert template(folder=tmp_path, text="{{ question }}").name == "own.jinja"
