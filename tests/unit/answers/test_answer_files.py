"""The record of an answer and its files: what is written is read back, and damage is named, whoever wrote it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.anchor_use import AnchorUse
from mars.algorithms.guided_groups import with_candidates
from mars.answers.files import append_answers, from_record, read_answers, to_line, to_record, write_answers
from mars.answers.record import Answer, answers_of, reward_input
from mars.errors import DataError, SetupError
from mars.evaluation.files import read_partial, read_results
from mars.extra_facts import ExtraFacts
from mars.types import ImageRef, Message, RewardInput, RewardResult, Source
from tests.builders import make_group, make_prompt, make_rollouts
from tests.examples import examples

HOSTILE = "</pre><script>\x1b[2J\u202e\x00\ud800\u2028\r\n{{7*7}}"

texts = st.text(st.characters(), max_size=12) | st.sampled_from([HOSTILE, ""])
names = st.text(st.characters(), min_size=1, max_size=6)
counts = st.none() | st.integers(0, 10**6)
sizes = st.tuples(st.integers(1, 10**8), st.integers(1, 10**8))
numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(st.none() | st.booleans() | st.integers() | numbers | texts, st.lists, max_leaves=4)
rewards = st.builds(RewardResult, numbers, numbers, st.dictionaries(texts, numbers, max_size=3), st.none() | texts)
images = st.builds(ImageRef, texts, sizes, texts, counts, counts, st.none() | sizes)
answers = st.builds(
    Answer,
    prompt_id=texts,
    number=st.integers(0, 99),
    row=texts,
    data_source=texts,
    view=st.none() | st.lists(names, min_size=1, max_size=3).map(tuple),
    sample=st.integers(0, 9),
    text=texts,
    truth=texts,
    truth_size=st.none(),
    response_size=st.none(),
    extra_info=st.dictionaries(texts, json_values, max_size=2),
    finish_reason=st.none() | st.sampled_from(["stop", "length"]),
    prompt_tokens=counts,
    response_tokens=counts,
    question=st.lists(st.builds(Message, texts, texts), max_size=2).map(tuple),
    sources=st.lists(st.builds(Source, names, images), max_size=2).map(tuple),
    reward=st.none() | rewards,
    step=counts,
    extra=st.none() | texts,
    about=counts,
    guest=st.booleans(),
).map(lambda item: item if item.extra is not None else replace(item, about=None))


def answer(prompt_id: str = "a", **fields) -> Answer:
    given = {"number": 0, "row": "rows.jsonl:0", "data_source": "set", "view": None, "sample": 0, "text": "yes"}
    given |= {"truth": "yes", "truth_size": None, "response_size": None, "extra_info": {}}
    return Answer(prompt_id, **{**given, **fields})


# --- what is recorded


@pytest.mark.parametrize(("shuffle", "expected"), [("off", [False, True]), ("both", [False, False])])
def test_responses_that_became_guests_are_marked(shuffle, expected):
    """p: of the anchors 0 and 1 the second is above the mean. With anchors of q its own are none."""
    items = [make_rollouts(name, [0.0, 0.5], s0=[0.0, 1.0]) for name in "pq"]
    group = make_group("q", ("s0",), [1.0])
    (other,) = group.rollouts
    other = replace(other, completion=replace(other.completion, token_ids=(8,)))
    items[1] = replace(items[1], anchors=(replace(group, rollouts=(other,)),))
    used = AnchorUse(lambda item, group, rollout: True, shuffle).applied(with_candidates(items), 1, 1, 0)[0]
    found = answers_of(used[:1], 1, frames=lambda prompt, view: (None, None), prompt_length=lambda request: 3)
    assert [answer.guest for answer in found if answer.view] == expected
    assert not any(answer.guest for answer in found if answer.view is None)
    assert ["guest" in to_record(answer) for answer in found if answer.view] == expected


# --- what is written is read back


@examples(150)
@given(answers, st.none() | st.tuples(sizes, sizes))
def test_an_answer_is_read_back_as_it_was_written(written, frames):
    if frames is not None:
        written = replace(written, truth_size=frames[0], response_size=frames[1])
    line = to_line(written)
    assert line.isascii()
    assert line.count("\n") == 1
    assert from_record(json.loads(line)) == written


@examples(40)
@given(st.lists(answers, max_size=6, unique_by=lambda item: item.prompt_id))
def test_a_file_written_whole_and_one_appended_to_are_the_same(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("files")
    write_answers(folder / "whole.jsonl", written)
    (folder / "grown.jsonl").touch()
    for item in written:
        append_answers(folder / "grown.jsonl", [item])
    assert (folder / "whole.jsonl").read_bytes() == (folder / "grown.jsonl").read_bytes()
    read = read_answers(folder / "whole.jsonl")
    assert read.checked() == tuple(sorted(written, key=lambda item: item.order))
    assert (read.problems, read.num_lines, read.is_cut) == ((), len(written), False)


def test_numbers_that_json_lacks_become_null_and_a_null_score_is_not_a_number():
    odd = RewardResult(math.inf, 0.5, {"iou": math.nan}, "ValueError: odd")
    line = to_line(answer(reward=odd, extra_info={"deep": [{"x": -math.inf}]}))
    record = json.loads(line, parse_constant=lambda text: pytest.fail(text))
    assert record["reward"] == {"score": None, "accuracy": 0.5, "parts": {"iou": None}, "failed": "ValueError: odd"}
    assert record["extra_info"] == {"deep": [{"x": None}]}
    read = from_record(record).reward
    assert read is not None
    assert math.isnan(read.score)
    assert math.isnan(read.parts["iou"])
    assert (read.accuracy, read.failed) == (0.5, "ValueError: odd")


def test_a_stored_answer_gives_the_reward_the_input_it_had():
    """Views of a prompt have frames of their own."""
    visible, infrared = (ImageRef(f"{name}.png", (40, 20)) for name in ("visible", "infrared"))
    prompt = make_prompt("a", [visible, infrared], ["visible", "infrared"], truth="[]", extra_info={"choices": ["x"]})
    frames = lambda prompt, view: ((40, 20), (80, 40) if view is None else (20, 10))  # noqa: E731
    rollouts = [make_rollouts(prompt, [1.0, None], text="said", visible=[0.5], visible_and_infrared=[0.0])]
    kept = answers_of(rollouts, 7, frames=frames, prompt_length=lambda request: 12)
    stored = [from_record(json.loads(to_line(item))) for item in kept]
    assert stored == kept
    assert [item.reward_input for item in stored] == [
        reward_input(prompt, view, "said", frames, 7) for view in (None, None, ("visible",), ("visible", "infrared"))
    ]
    assert stored[2].reward_input == RewardInput(
        "test", ("visible",), "said", "[]", (40, 20), (20, 10), {"choices": ["x"]}, None, 7, (visible,)
    )
    assert [item.reward.failed for item in stored] == [None, "raised", None, None]
    assert {(item.step, item.prompt_tokens) for item in stored} == {(7, 12)}


def test_answers_to_extra_requests_have_their_own_truth_and_come_last(tmp_path):
    """They are no contradiction of the question's truth, and need not agree about different rollouts."""
    facts = [ExtraFacts("blind", "signal", f"truth {k}", about=k) for k in range(2)]
    prompt = make_prompt("a", [ImageRef("x.png", (9, 9))] * 2, ["visible", "infrared"])
    item = make_rollouts(prompt, [1.0, 0.0], visible=[0.5])
    groups = tuple(
        replace(
            item.multi,
            request=replace(item.multi.request, extra=extra),
            rollouts=tuple(replace(rollout, extra="blind") for rollout in item.multi.rollouts),
        )
        for extra in facts
    )
    item = replace(item, extras=groups)
    kept = answers_of([item], 7, frames=lambda p, v: (None, None), prompt_length=lambda request: 12)
    write_answers(tmp_path / "step.jsonl", reversed(kept))
    read = read_answers(tmp_path / "step.jsonl").checked()
    labels = ["multi", "multi", "visible", *["multi, blind of 0"] * 2, *["multi, blind of 1"] * 2]
    assert [(a.label, a.sample) for a in read] == list(zip(labels, (0, 1, 0, 0, 1, 0, 1), strict=True))
    assert [a.truth for a in read] == ["yes"] * 3 + ["truth 0"] * 2 + ["truth 1"] * 2
    assert read[3].reward_input.extra == "blind"
    assert [json.loads(to_line(a)).get("extra", "none") for a in read] == ["none"] * 3 + ["blind"] * 4
    assert read_results(tmp_path / "step.jsonl").answers == read[:3]
    assert read_partial(tmp_path / "step.jsonl")[0].answers == read


def test_the_order_is_question_multi_and_then_the_sources_as_the_question_has_them():
    sources = tuple(Source(name, ImageRef("x.png", (9, 9))) for name in ("visible", "infrared", "depth"))
    views = [None, ("visible",), ("visible", "depth"), ("infrared",), ("depth",), ("unknown",)]
    wanted = [
        answer(name, number=number, view=view, sample=sample, sources=sources)
        for number, name in enumerate("ba")
        for view in views
        for sample in range(2)
    ]
    backwards = wanted[::-1]
    assert sorted(backwards, key=lambda item: item.order) == wanted


# --- damage


def test_keys_that_may_be_null_may_be_missing():
    record = to_record(answer())
    for key in ("finish_reason", "prompt_tokens", "response_tokens", "reward", "step"):
        del record[key]
    assert from_record(record) == answer()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"reward": 3}, "reward: want dict; got int"),
        ({"reward": {}}, "parts: is missing"),
        ({"reward": {"parts": {}, "score": True, "accuracy": 0}}, "score: want "),
        (
            {"reward": {"parts": {}, "score": 10**400, "accuracy": 0}},
            "score: want a number; got an integer that is too large",
        ),
        ({"reward": {"parts": {"iou": "x"}, "score": 0, "accuracy": 0}}, "iou: want "),
        ({"step": "3"}, "step: want int; got str"),
        ({"step": True}, "step: want int; got bool"),
        ({"view": "infrared"}, "view: want "),
        ({"truth_size": [1, 2]}, "truth_size, response_size: want both or neither"),
        ({"question": [{"role": "user"}]}, "text: is missing"),
    ],
)
def test_a_key_of_the_wrong_kind_is_named(change, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        from_record({**to_record(answer()), **change})


@pytest.mark.parametrize("cut", [1, 2, 40, 300])
def test_a_writer_killed_in_the_middle_of_a_line_costs_that_line(tmp_path, cut):
    path = tmp_path / "answers.jsonl"
    write_answers(path, [answer(name, number=number) for number, name in enumerate("abc")])
    path.write_bytes(path.read_bytes()[: -1 - cut])
    read = read_answers(path)
    assert [item.prompt_id for item in read.answers] == ["a", "b"]
    assert (read.is_cut, len(read.problems), read.num_lines) == (True, 1, 3)
    assert [item.prompt_id for item in read.checked(allow_cut=True)] == ["a", "b"]
    with pytest.raises(DataError, match=r"1 of 3 lines cannot be used\n.*answers\.jsonl:2 "):
        read.checked()


def test_every_other_problem_is_refused_even_where_a_cut_line_is_allowed(tmp_path):
    path = tmp_path / "answers.jsonl"
    lines = [to_line(answer()), "[1]\n", to_line(answer(text="no")), to_line(answer(sample=1, truth="no")), '{"text": ']
    path.write_text("".join(lines))
    read = read_answers(path)
    assert read.answers == (answer(),)
    with pytest.raises(DataError) as error:
        read.checked(allow_cut=True)
    for place, problem in ((1, "want an object"), (2, "the same answer as"), (3, "another truth than")):
        assert f"answers.jsonl:{place}  {problem}" in str(error.value)
    assert "answers.jsonl:4" not in str(error.value)
    assert len(read.notes) == 4


def test_many_damaged_lines_are_counted_in_the_notes(tmp_path):
    (tmp_path / "x.jsonl").write_text("?\n" * 500)
    notes = read_answers(tmp_path / "x.jsonl").notes
    assert len(notes) < 20
    assert notes[-1].endswith("490 more lines are left out")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 100_000, b"\x00" * 50, b"null", b'"text"', b"NaN"])
def test_bytes_that_are_no_answer_are_a_problem_and_no_crash(tmp_path, content):
    (tmp_path / "x.jsonl").write_bytes(content + b"\n" + to_line(answer()).encode())
    read = read_answers(tmp_path / "x.jsonl")
    assert read.answers == (answer(),)
    assert (len(read.problems), read.is_cut) == (1, False)


def test_no_file_and_no_room_have_a_reason(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read"):
        read_answers(tmp_path / "gone.jsonl")
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    with pytest.raises(SetupError, match="No space left on device"):
        append_answers(tmp_path / "full.jsonl", [answer()])
