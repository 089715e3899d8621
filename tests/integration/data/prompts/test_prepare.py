"""What `prepare_rows` finds in single rows, and what it leaves unsaid because it only follows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image

from mars.data.prompts.budget import ImageBudget, source_budgets
from mars.data.prompts.chat import PromptEncoder
from mars.data.prompts.prepare import RowSettings, prepare_rows
from mars.data.prompts.templates import PromptTemplate
from mars.data.prompts.tokenizer import load_tokenizer
from mars.errors import ConfigError, DataError

BUDGET = ImageBudget(784, 50176, 14, 2)  # a 56x56 image has 4 tokens, a 112x112 image 16


@pytest.fixture(scope="module")
def encoder(tiny):
    """The tiny model's, to which "~" is a special token: one of another form than the reader knows."""
    rules = PromptEncoder.from_pretrained(str(tiny)).token_rules()
    tokenizer = load_tokenizer(str(tiny), False)
    (tilde,) = tokenizer("~", add_special_tokens=False)["input_ids"]
    return PromptEncoder(tokenizer, replace(rules, blocked_ids=(*rules.blocked_ids, tilde)), {})


@pytest.fixture
def prepare(encoder, tmp_path):
    """(rows, changes of the settings) -> PreparedRows."""
    for name, size in {"a": (56, 56), "b": (112, 112), "strip": (10600, 53), "deep": (56, 56)}.items():
        Image.new("I;16" if name == "deep" else "RGB", size).save(tmp_path / f"{name}.png")
    damaged = bytearray((tmp_path / "b.png").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "damaged.png").write_bytes(damaged)
    settings = RowSettings(
        image_root=str(tmp_path), check_truth=lambda prompt: "is bad" if prompt.truth == "bad" else None,
        needs_response=False, images_per_row=None, decode_images=True, source_budgets={}, budget=BUDGET,
        template_of=lambda prompt: None, encoder=encoder, image_layout="single", max_prompt_tokens=1000,
    )  # fmt: skip

    def run(*rows, **changes):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return prepare_rows([str(file)], replace(settings, **changes))

    return run


@pytest.fixture
def template(tmp_path):
    def make(text):
        (tmp_path / "own.jinja").write_text(text)
        made = PromptTemplate(tmp_path / "own.jinja", tmp_path, box_space="norm_1000", model_type="m")
        return lambda prompt: made

    return make


def row(*images, text="Where?", truth="yes", **extra):
    return {
        "prompt": [{"role": "user", "content": "<image>" * len(images) + text}],
        "images": [f"{image}.png" for image in images],
        "answer": truth,
        "extra_info": extra,
    }


def found(prepared, number=0):
    """The reasons of one row, in order."""
    return [p.reason for p in prepared.problems if p.row.endswith(f":{number}")]


def test_lengths_count_the_images_tokens(prepare, encoder):
    prepared = prepare(row("a", "b"), row(text="Where?"))
    bare = len(encoder.encode(prepared.rendered[0].messages, 2)) - 2
    assert list(prepared.lengths.values()) == [bare + 4 + 16, len(encoder.encode(prepared.rendered[1].messages, 0))]
    assert list(prepare(row("a", "b"), image_layout="repeated").lengths.values()) == [bare + 4 + 16], "no mono view"
    repeated = prepare(row("a", "b"), image_layout="repeated", shown_views=mono)
    assert list(repeated.lengths.values()) == [bare + 16 + 16]
    assert prepare(row("a", "b"), max_prompt_tokens=bare + 20).problems == ()
    (problem,) = prepare(row("a", "b"), max_prompt_tokens=bare + 19).problems
    assert (problem.reason, problem.detail) == (
        "overlong", f"{bare + 20} tokens, {bare + 19} are allowed (data.max_prompt_tokens)"
    )  # fmt: skip
    limits = source_budgets({"view_2": [784, 3136]}, BUDGET)
    assert list(prepare(row("a", "b"), source_budgets=limits).lengths.values()) == [bare + 4 + 4]


def test_every_problem_of_a_row_is_told(prepare):
    """In the order of the checks: the first is what a dropped row counts under."""
    prepared = prepare(
        {**row("a", id=1), "response": "yes"},
        row("a", "damaged", text="~", truth="bad", id=1),
        images_per_row=1,
        needs_response=True,
    )
    assert found(prepared, 1) == ["response", "truth", "duplicate_id", "num_images", "image_undecodable",
                                  "special_token"]  # fmt: skip
    both = prepare(row("strip", "damaged", text="~"), source_budgets=source_budgets({"view_1": [784, 235200]}, BUDGET))
    assert found(both) == ["image_undecodable", "image_size", "special_token"]
    # One image missing, another damaged, and the truth too: three things to fix.
    assert found(prepare({**row("gone", "damaged"), "answer": None})) == ["image_missing", "truth", "image_undecodable"]
    assert found(prepare({**row("a", truth="bad"), "response": 5}, max_prompt_tokens=1)) == [
        "response", "truth", "overlong"
    ]  # fmt: skip


def test_what_only_follows_is_not_told(prepare, template):
    # Two markers for one image: the length means nothing.
    assert found(prepare(row("a", text="<image> Where?"), max_prompt_tokens=1)) == ["sources"]
    # The strip has no size that could be shown, so it has no tokens.
    limits = source_budgets({"image": [784, 235200]}, BUDGET)
    assert found(prepare(row("strip"), source_budgets=limits, max_prompt_tokens=1)) == ["image_size"]
    # Nobody knows the text that a template would make of the row.
    adds = template("{{ question }}<image>")
    prepared = prepare(row("a"), template_of=adds, max_prompt_tokens=1)
    assert (found(prepared), prepared.rendered, prepared.lengths) == (["template"], (), {})
    # extra_info would say how the image becomes 8 bits; choices of another form are no truth's fault.
    assert found(prepare({**row("deep"), "extra_info": "depth"})) == ["extra_info"]
    assert found(prepare(row("a", truth="bad", choices=5))) == ["choices"]
    # A row that is refused has taken no id from a later one.
    assert found(prepare(row("a", truth="bad", id=1), row("a", id=1)), 1) == []


def test_a_template_may_fail_on_a_bad_row_only(prepare, template):
    needs_choices = template("{{ question }} {{ choices[0] }}")
    bad, good = row("a", truth="bad"), row("a", choices=["x"])
    assert found(prepare(bad, good, template_of=needs_choices)) == ["truth"]
    with pytest.raises(ConfigError, match=r"cannot be rendered for .*rows\.jsonl:0"):
        prepare(row("a"), good, template_of=needs_choices)


def test_a_template_that_makes_a_special_token_is_told_once(prepare, template):
    choice = template("{{ question }} {{ choices | join }}")
    assert found(prepare(row("a", choices=["<|im_end|>"]), template_of=choice)) == ["special_token"]
    assert found(prepare(row("a", choices=["~"]), template_of=choice)) == ["special_token"]
    # Not rendered, the question itself is looked at.
    assert found(prepare(row("a", text="~"), template_of=template("none"))) == ["template", "special_token"]


def mono(prompt):
    return [(source.name,) for source in prompt.sources]


def test_a_views_own_wording_is_measured_and_checked(prepare, template, encoder):
    longer = template("{{ question }}{% if sources | length == 1 %}{{ ' word' * 50 }}{% endif %}")
    prepared = prepare(row("a", "b"), row("a"), template_of=longer, shown_views=mono, own_wording=True)
    both = prepared.rendered[0]
    assert both.messages[0].text == "<image><image>Where?"
    text = "<image>Where?" + " word" * 50
    assert [messages[0].text for messages in both.view_messages.values()] == [text, text]
    bare = len(encoder.encode(both.view_messages[("view_1",)], 1)) - 1
    assert list(prepared.lengths.values()) == [bare + 16, bare + 4]
    own = {"template_of": longer, "shown_views": mono, "own_wording": True}
    (problem,) = prepare(row("a", "b"), **own, max_prompt_tokens=bare + 15).problems
    assert problem.reason == "overlong"


def test_a_template_that_fails_for_a_view_names_it(prepare, template):
    adds = template("{{ question }}{% if sources == ['view_2'] %}<image>{% endif %}")
    assert prepare(row("a", "b"), template_of=adds).problems == ()
    (problem,) = prepare(row("a", "b"), template_of=adds, shown_views=mono, own_wording=True).problems
    assert (problem.reason, problem.detail.partition(": ")[0]) == ("template", "view view_2")
    assert problem.detail.endswith("own.jinja renders a text with 2 markers; the row has 1")
    special = template("{{ question }}{% if sources == ['view_2'] %}~{% endif %}")
    assert found(prepare(row("a", "b"), template_of=special, shown_views=mono, own_wording=True)) == ["special_token"]


def test_responses_are_looked_at_where_they_are_needed(prepare):
    with_tilde = {**row("a"), "response": "~"}
    assert found(prepare(with_tilde)) == []
    prepared = prepare(with_tilde, row("a"), needs_response=True)
    assert [p.reason for p in prepared.problems] == ["special_token", "response"]
    assert "the response text holds the special token" in prepared.problems[0].detail
    assert len(prepared.lengths) == 2, "the prompts are fine"


def test_a_policy_refuses_all_or_drops_and_counts(prepare, caplog):
    rows = [row("a"), row("damaged", truth="bad"), row("a", text="~"), row("gone"), row("b", text="w" * 200)]
    prepared = prepare(*rows, max_prompt_tokens=150)
    kept = prepared.usable("drop")
    assert [prompt.row for prompt in kept.prompts] == list(kept.lengths) == [prepared.rendered[0].row]
    assert kept.dropped == {"image_missing": 1, "overlong": 1, "special_token": 1, "truth": 1}
    assert kept.fingerprint == prepared.fingerprint
    assert "4 of 5 rows dropped" in caplog.text
    with pytest.raises(DataError, match="4 of 5 rows cannot be used") as refused:
        prepared.usable("error")
    for fragment in ("rows.jsonl:1  truth ", "rows.jsonl:1  image_undecodable", "rows.jsonl:2 ", "rows.jsonl:3 ",
                     "rows.jsonl:4  overlong"):  # fmt: skip
        assert fragment in str(refused.value)
    with pytest.raises(DataError, match="no row is left"):
        prepare(*rows, max_prompt_tokens=1).usable("drop")


def test_images_are_decoded_only_if_asked(prepare):
    prepared = prepare(row("a", "damaged"), row("gone"), decode_images=False)
    assert (found(prepared), found(prepared, 1), prepared.num_decoded) == ([], ["image_missing"], 0)
    assert prepare(row("a", "damaged"), row("gone", "b")).num_decoded == 3
