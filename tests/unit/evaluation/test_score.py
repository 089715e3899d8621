"""`mars eval score`: hand-computed numbers of both scorers, in our format and in the public one."""

from __future__ import annotations

import json
from math import log, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import ConfigError, DataError
from mars.evaluation.summary import mean_interval
from mars.report.examples import choose_examples
from mars.report.scores import score_file
from mars.rewards.built_in import BUILT_IN
from tests.examples import examples
from tests.unit.evaluation.result_files import boxes_text, line, vqa_text, write_folder, write_public

TWO = [[0, 0, 10, 10], [20, 0, 40, 10]]
TRUTH_TWO = json.dumps(TWO)
BONUS = 1 + 0.3 * log(2)


def score(path, task="grounding", threshold=0.5, frames=None):
    return score_file(path, task, threshold, frames)[1]


def means(quantities):
    names = ("multi", "union", "information_gain", "conflict_rate", "share_over_threshold")
    return {name: quantities[name] and quantities[name]["mean"] for name in names}


def test_both_scorers_of_grounding_by_hand(tmp_path):
    """a: multi finds one of two boxes exactly: 0.5 strict, 0.5 (1 + 0.3 ln 2) compat; visible finds half of one box
    (IoU 0.5): 0.25, 0.25 (...); infrared finds both: 1, 1 + 0.3 ln 2. b: multi is no JSON: 0; visible one box too many:
    strict 1, compat 1 - 0.5; infrared IoU 0.3 exactly, not over 0.3: strict 0.3, compat 0."""
    one = json.dumps([[0, 0, 10, 10]])
    folder = write_folder(
        tmp_path / "m",
        [
            line("a", "visible", boxes_text([[0, 0, 10, 5]]), TRUTH_TWO),
            line("a", None, boxes_text([[0, 0, 10, 10]]), TRUTH_TWO),
            line("a", "infrared", boxes_text(TWO), TRUTH_TWO),
            line("b", None, "<answer>[[0, 0</answer>", one, finish_reason="length"),
            line("b", "visible", boxes_text([[0, 0, 10, 10], [60, 0, 70, 10]]), one),
            line("b", "infrared", boxes_text([[0, 0, 10, 3]]), one),
        ],
    )
    result = score(folder)
    assert means(result) == pytest.approx(
        {"multi": 0.25, "union": 1.0, "information_gain": ((0.5 - 0.625) + (0 - 0.65)) / 2,
         "conflict_rate": 1.0, "share_over_threshold": 0.0}
    )  # fmt: skip
    assert list(result["mono"]) == ["visible", "infrared"], "in the question's order, not the file's"
    assert result["mono"]["visible"]["mean"] == pytest.approx((0.25 + 1) / 2)
    assert result["mono"]["infrared"]["mean"] == pytest.approx((1 + 0.3) / 2)
    compat = result["compat"]
    assert compat["multi"]["mean"] == pytest.approx(0.5 * BONUS / 2)
    assert compat["mono"]["visible"]["mean"] == pytest.approx((0.25 * BONUS + 0.5) / 2)
    assert compat["mono"]["infrared"]["mean"] == pytest.approx(BONUS / 2)
    assert compat["union"]["mean"] == pytest.approx((BONUS + 0.5) / 2)
    assert compat["information_gain"]["mean"] == pytest.approx((0.5 * BONUS - 0.625 * BONUS + 0 - 0.25) / 2)
    assert (result["n"], result["answers"], result["unparseable"], result["cut_off"]) == (2, 6, 1, 1)
    assert (result["metric"], result["frames"], result["failed"]) == ("mean IoU", "of each image", 0)
    assert score(folder, threshold=0.4)["share_over_threshold"]["mean"] == 0.5


def test_boxes_are_scaled_from_the_frame_of_each_answer(tmp_path):
    """Truth in 100 x 50, answers in 50 x 50 and in thousandths: perfect once scaled."""
    truth = json.dumps([[20, 10, 60, 40]])
    folder = write_folder(
        tmp_path / "m",
        [
            line("a", None, boxes_text([[10, 10, 30, 40]]), truth, response_size=[50, 50]),
            line("b", None, boxes_text([[200, 200, 600, 800]]), truth, response_size=[1000, 1000]),
        ],
    )
    assert score(folder)["multi"]["mean"] == pytest.approx(1.0)


def test_conflicts_first_and_rounding_orders_nothing(tmp_path):
    """a, b and c are answered perfectly in frames of many sizes; in d a single view is better, e is all wrong."""
    truth = [[3, 1, 10, 8]]
    lines = []
    for name, frames in (("a", [(77, 41), (100, 50)]), ("b", [(100, 50), (77, 41)]), ("c", [(93, 61), (33, 29)])):
        for view, (width, height) in zip((None, "visible"), frames, strict=True):
            boxes = [[x1 * width / 100, y1 * height / 50, x2 * width / 100, y2 * height / 50]
                     for x1, y1, x2, y2 in truth]  # fmt: skip
            lines.append(line(name, view, boxes_text(boxes), json.dumps(truth), response_size=[width, height]))
    lines += [line("d", None, boxes_text([[3, 1, 10, 7]]), json.dumps(truth))]
    lines += [line("d", "visible", boxes_text(truth), json.dumps(truth))]
    lines += [line("e", view, boxes_text([]), json.dumps(truth)) for view in (None, "visible")]
    scored, result = score_file(write_folder(tmp_path / "m", lines), "grounding", 0.5, None)
    assert len({record.accuracy for record in scored.records if record.prompt_id in "abc"}) > 1, "they do differ"
    assert result["conflict_rate"]["mean"] == 1 / 5
    chosen, _ = choose_examples(scored.answers, 5)
    assert [answers[0].prompt_id for answers in chosen] == ["d", "e", "a", "b", "c"]


def test_the_public_format_is_scored_as_it_is(tmp_path, caplog):
    public = write_public(
        tmp_path / "theirs.json",
        [
            (boxes_text([[0, 0, 10, 10]]), [[0, 0, 10, 10]]),
            (boxes_text([[0, 0, 10, 10]]), TWO),
            ("no tags at all", [[0, 0, 10, 10]]),
            (boxes_text([]), []),
        ],
    )
    result = score(public)
    assert result["multi"]["mean"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert result["compat"]["multi"]["mean"] == pytest.approx((1 + 0.5 * BONUS + 0 + 1) / 4)
    assert (result["n"], result["unparseable"], result["union"], result["mono"]) == (4, 1, None, {})
    assert (result["frames"], result["cut_off"], result["name"]) == (
        "the same for answers and truth (assumed)",
        None,
        "theirs",
    )
    assert "same image size" in caplog.text


def test_frames_of_the_public_format_are_given_by_hand(tmp_path):
    public = write_public(tmp_path / "p.json", [(boxes_text([[100, 200, 300, 400]]), [[128, 204.8, 384, 409.6]])])
    result = score(public, frames=((1280, 1024), (1000, 1000)))
    assert result["multi"]["mean"] == pytest.approx(1.0)
    assert result["frames"] == "answers 1000x1000, truth 1280x1024"
    with pytest.raises(ConfigError, match="has its own image sizes"):
        score(write_folder(tmp_path / "m", [line("a", None, "", "[]")]), frames=((1, 1), (1, 1)))


def test_vqa_alternatives_choices_and_yes_or_no(tmp_path):
    public = write_public(
        tmp_path / "v.json",
        [
            (vqa_text("3"), "three or 3"),
            (vqa_text("Three."), "three or 3"),
            (vqa_text("e"), "Yes"),
            (vqa_text("It is yes"), "Yes"),
            (vqa_text("D"), "D"),
            (vqa_text("D."), "D"),
            (vqa_text(" "), "no"),
            ("yes", "yes"),  # no answer tags
            ("<think>yes</think><answer>yes</answer><answer>no</answer>", "yes"),
        ],
    )
    result = score(public, "vqa")
    assert result["multi"]["mean"] == pytest.approx(5 / 9)
    assert result["compat"]["multi"] == result["multi"]
    assert (result["unparseable"], result["metric"], result["share_over_threshold"]) == (3, "accuracy", None)
    entry = {"content": [vqa_text("Travel")], "ground_truth": "B", "extra_info": {"choices": ["Law", "Travel"]}}
    (tmp_path / "c.json").write_text(json.dumps([entry]))
    assert score(tmp_path / "c.json", "vqa")["multi"]["mean"] == 1


def test_several_texts_of_an_entry_are_averaged_and_the_entry_counts_once(tmp_path):
    entries = [
        {"content": [vqa_text("yes"), vqa_text("no")], "ground_truth": "yes"},
        {"content": vqa_text("no"), "ground_truth": "no"},
    ]
    (tmp_path / "v.json").write_text(json.dumps(entries))
    result = score(tmp_path / "v.json", "vqa")
    assert (result["multi"]["mean"], result["multi"]["n"], result["answers"]) == (0.75, 2, 3)
    # 0.75 +- 12.7062 * sqrt(0.125) / sqrt(2), cut to the range
    assert 12.7062 * sqrt(0.125 / 2) > 0.75
    assert (result["multi"]["low"], result["multi"]["high"]) == (0, 1)


def test_mono_views_alone_have_no_multi_and_no_gain(tmp_path):
    lines = [line("a", name, vqa_text(text), "yes") for name, text in (("visible", "yes"), ("infrared", "no"))]
    result = score(write_folder(tmp_path / "m", lines), "vqa")
    assert means(result) == {key: 1.0 if key == "union" else None for key in means(result)}
    assert {name: value["mean"] for name, value in result["mono"].items()} == {"visible": 1, "infrared": 0}


def test_each_data_source_on_its_own(tmp_path):
    lines = [line("a", None, vqa_text("yes"), "yes"), line("b", None, vqa_text("no"), "yes", data_source="other")]
    result = score(write_folder(tmp_path / "m", lines), "vqa")
    assert {name: part["multi"]["mean"] for name, part in result["by_data_source"].items()} == {"other": 0, "set": 1}
    assert result["by_data_source"]["other"]["compat"]["multi"]["mean"] == 0


# --- files that cannot be scored: one table, nothing left out in silence


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"content": ["a"], "ground_truth": "x"}, 7]', "p.json:1  want {content: [text], ground_truth}; got int"),
        ('[{"ground_truth": "x"}]', "p.json:0  content: want a list of texts; got 'None'"),
        ('[{"content": [], "ground_truth": "x"}]', "content: want a list of texts"),
        ('[{"content": ["a", 3], "ground_truth": "x"}]', "content: want a list of texts"),
        ('[{"content": ["a"]}]', "ground_truth: want a text or a list of boxes; got None"),
        ('[{"content": ["a"], "ground_truth": true}]', "got True"),
        ('[{"content": ["a"], "ground_truth": "x", "extra_info": 3}]', "extra_info: want an object"),
        ('[{"content": ["a"], "ground_truth": ""}]', "truth: empty"),
        ("[]", "got an empty list"),
        ('{"a": 1}', "got dict"),
        ('[{"content": ["a"], "gro', "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_malformed_public_files(tmp_path, content, expected):
    path = tmp_path / "p.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError) as error:
        score(path, "vqa")
    assert expected in str(error.value)


def test_all_problems_of_a_file_are_in_one_table(tmp_path):
    good = {"content": ["x"], "ground_truth": "y"}
    path = tmp_path / "p.json"
    path.write_text(json.dumps([good, {"content": 3}, good, None, *[5] * 40]))
    with pytest.raises(DataError) as error:
        score(path, "vqa")
    text = str(error.value)
    assert "42 of 44 entries cannot be used" in text
    assert "p.json:1 " in text
    assert "p.json:3 " in text
    assert "and 12 more problems" in text


def test_truths_that_the_task_cannot_use(tmp_path):
    path = write_public(tmp_path / "p.json", [("a", "yes"), ("b", [[0, 0, 5, 5]]), ("c", [[5, 5, 0, 0]])])
    with pytest.raises(DataError) as error:
        score(path, "grounding")
    assert "2 of 3 questions cannot be used" in str(error.value)
    assert "p.json:2  truth" in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda line: line.pop("truth"), "answers.jsonl:1  truth: is missing"),
        (lambda line: line.update(text=3), "text: want str; got int"),
        (lambda line: line.update(view=[]), "view: want null or a list of sources"),
        (lambda line: line.update(view=["a", 1]), "view: want null or a list of sources"),
        (lambda line: line.update(truth_size=[0, 5]), "truth_size: want two whole numbers from 1"),
        (lambda line: line.update(truth_size=[10**400, 5]), "truth_size: want two whole numbers from 1"),
        (lambda line: line.update(truth_size=None), "truth_size, response_size: want both or neither"),
        (lambda line: line.update(sources=[{"name": "x"}]), "image: is missing"),
        (lambda line: line.update(prompt_id="a"), "the same answer as an earlier line"),
        (lambda line: line.update(prompt_id="a", sample=1, truth="no"), "another truth than in an earlier line"),
    ],
)
def test_malformed_lines(tmp_path, change, expected):
    lines = [line(name, None, vqa_text("yes"), "yes") for name in "ab"]
    change(lines[1])
    folder = write_folder(tmp_path / "m", lines)
    with pytest.raises(DataError) as error:
        score(folder, "vqa")
    assert expected in str(error.value)


def test_missing_answers_are_not_scored_around(tmp_path):
    lines = [line(name, None, vqa_text("yes"), "yes") for name in "ab"]
    folder = write_folder(tmp_path / "m", lines, asked={"multi": 3, "mono_visible": 2})
    with pytest.raises(DataError, match=r"answers are missing \(multi 1, mono_visible 2\); run the same"):
        score(folder, "vqa")
    with pytest.raises(DataError, match="cannot be read"):
        score(tmp_path / "nothing", "vqa")
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read"):
        score(folder, "vqa")


@examples(80)
@given(text=st.text(max_size=200), task=st.sampled_from(["grounding", "vqa"]))
def test_any_text_of_a_model_is_scored(tmp_path_factory, text, task):
    path = tmp_path_factory.mktemp("any") / "p.json"
    truth = [[0, 0, 5, 5]] if task == "grounding" else "yes"
    entries = [{"content": [f"<answer>{text}</answer>", text], "ground_truth": truth}]
    path.write_text(json.dumps(entries))
    result = score(path, task)
    assert result["failed"] == 0
    assert result["answers"] == 2
    assert result["multi"]["mean"] == 0 or result["unparseable"] < 2


@pytest.mark.parametrize(
    ("function", "text", "readable"),
    [
        ("vqa", vqa_text("x"), True),
        ("vqa", vqa_text(" \u200b\n"), False),
        ("vqa", "<answer>a</answer><answer>a</answer>", False),
        ("grounding", boxes_text([]), True),
        ("grounding", "<answer>[]</answer>", True),
        ("grounding", "<answer>[[1, 2, 3]]</answer>", True),  # a list, although no box of it is one
        ("grounding", "<answer>3</answer>", False),
        ("grounding", "<answer>```json\n[]\n``` ```json\n[]\n```</answer>", False),
        ("grounding", "[]", False),
        ("grounding", "<answer>" + "[" * 30_000 + "</answer>", False),
    ],
)
def test_what_can_be_read(function, text, readable):
    assert BUILT_IN[function].is_readable(text) is readable


# --- properties of the intervals

values = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=40)


@examples(100)
@given(values)
def test_intervals_hold_their_mean_and_stay_in_range(sample):
    interval = mean_interval(sample, 0, 1)
    assert interval["low"] >= -1e-12
    assert interval["low"] <= interval["mean"] + 1e-12
    assert interval["mean"] <= interval["high"] + 1e-12
    assert interval["high"] <= 1 + 1e-12


@examples(100)
@given(values)
def test_the_mirrored_sample_has_the_mirrored_interval(sample):
    interval, mirrored = mean_interval(sample, 0, 1), mean_interval([1 - value for value in sample], 0, 1)
    assert mirrored["low"] == pytest.approx(1 - interval["high"], abs=1e-9)
    assert mirrored["high"] == pytest.approx(1 - interval["low"], abs=1e-9)


@examples(60)
@given(values, st.integers(2, 5))
def test_the_same_values_more_often_are_known_better(sample, times):
    few, many = mean_interval(sample, 0, 1), mean_interval(sample * times, 0, 1)
    assert many["high"] - many["low"] <= few["high"] - few["low"] + 1e-12
