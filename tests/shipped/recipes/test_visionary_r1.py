"""recipe/visionary_r1: accuracy by kind of answer, the form, the question asked with a caption, and the KL's ramp."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from mars.hooks.step_hooks import Named
from mars.rewards.local import LocalScorer
from mars.rewards.text_metrics import edit_similarity, rouge_n
from mars.types import Message
from tests.builders import make_prompt
from tests.fakes.requests import with_requests
from tests.fakes.step import EOS, IMAGE, one_step, parts
from tests.hook_builders import step_facts, step_hooks
from tests.shipped.recipes.recipe_files import FOLDERS, ROOT, compose, item, module_of, reward_of

RECIPE = module_of("visionary_r1")
FOLDER = next(folder for folder in FOLDERS if folder.name == "visionary_r1")


def response(answer="4", caption="four cars"):
    return f"<info>{caption}</info>\n<think>so</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("answer", "truth", "kind", "accuracy"),
    [
        ("4", "4", None, 1), ("4.0 cars, not 5", "4", None, 1), ("four", "4", None, 1), ("-4", "4", "OCR", 0),
        ("50%", "0.5", None, 1), ("50", "0.5", None, 0), ("1,000", "1000", None, 1), ("", "4", None, 0),
        ("−4", "4", None, 0), ("−4 m", "-4", None, 1), ("-4", "−4", "OCR", 1), ("−4", "4", "OCR", 0),
        ("STOP", "stop", "OCR", 1), ("shop", "STOP", "OCR", 0.75), ("", "stop", "OCR", 0),
        ("stop " * 61, "stop", "OCR", 0),
        ("Red", "red", None, 1), ("dark red", "red", None, 0), ("nan", "nan", None, 1),
        # Words "the red car" and "the car": unigrams 2 of 3 and 2 of 2, no common bigram, subsequence 2.
        ("The red car.", "the car", "free-form", (2 * 2 / 5 + 0 + 2 * 2 / 5) / 3),
        ("a red car", "a red car", "free-form", 1), ("4", "4", "free-form", 2 / 3), ("", "a red car", "free-form", 0),
    ],
)  # fmt: skip
def test_accuracy_by_hand(answer, truth, kind, accuracy):
    info = {"problem_type": kind} if kind else {}
    result = reward_of("visionary_r1", "score")(item(response(answer), truth, info))
    assert (result.accuracy, result.score) == (pytest.approx(accuracy), pytest.approx(1 + accuracy))


@pytest.mark.parametrize(("truth", "kind"), [("", None), ("", "OCR"), (" ", "free-form"), ("!", "free-form")])
def test_a_malformed_truth_is_an_error(truth, kind):
    for extra in (None, RECIPE.NAME):
        for text in (response(), "", RECIPE.REFUSAL):
            with pytest.raises(DataError, match="truth"):
                reward_of("visionary_r1", "score")(item(text, truth, {"problem_type": kind}, extra=extra))


def test_a_choice_is_named_as_vqa_reads_it():
    info = {"choices": ["3", "4"]}
    accuracy = [RECIPE.accuracy(item("", "B", info), said) for said in ("B", "4", "(b)", "3", "A")]
    assert accuracy == [1, 1, 1, 0, 0]
    numbers = [RECIPE.accuracy(item("", "4", info), said) for said in ("B. 4", "A", "A, not 4", "4")]
    assert numbers == [1, 0, 0, 1], "the first number is not enough"


@pytest.mark.parametrize(
    ("text", "form", "accuracy"),
    [
        (response(), 1, 1),
        (f" {response()} ", 1, 1),
        (response() + " ok", 0, 1),
        (response(caption="<info>"), 0, 1),
        ("<think>so</think><info>a</info><answer>4</answer>", 0, 1),
        ("<answer>4</answer>", 0, 1),
        (response() + "<answer>5</answer>", 0, 0),
        ("4", 0, 0),
    ],
)
def test_the_form(text, form, accuracy):
    result = reward_of("visionary_r1", "score")(item(text, "4"))
    assert result.parts == {"accuracy": accuracy, "format": form}
    assert result.score == accuracy + form


@pytest.mark.parametrize(
    ("text", "accuracy"),
    [("4", 1), (" 4 cars ", 1), ("Hacking Sample", 0), ("hacking sample: 4", 0), ("<answer>5</answer>", 0), ("", 0)],
)
def test_an_answer_to_the_caption_has_no_tags(text, accuracy):
    result = reward_of("visionary_r1", "score")(item(text, "4", extra="caption"))
    assert (result.score, result.accuracy) == (accuracy, accuracy)


letters = st.text("abc", max_size=8)


@given(letters, letters, st.integers(0, 8))
def test_the_edit_similarity_is_that_of_a_distance(one, other, cut):
    """Symmetric, 1 for equal texts only; deleting k letters at the end costs k."""
    assert edit_similarity(one, other) == edit_similarity(other, one)
    assert 0 <= edit_similarity(one, other) <= 1
    assert (edit_similarity(one, other) == 1) == (one == other)
    shorter = one[: len(one) - cut] if cut < len(one) else ""
    assert edit_similarity(one, shorter) == pytest.approx(1 - (len(one) - len(shorter)) / max(len(one), 1))


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6), st.integers(1, 3))
def test_rouge_n_counts_common_runs_of_words(ours, true, n):
    """Against a count that takes each run of the truth away when it is found."""
    left, common = [tuple(true[i : i + n]) for i in range(len(true) - n + 1)], 0
    runs = [tuple(ours[i : i + n]) for i in range(len(ours) - n + 1)]
    total = len(left) + len(runs)
    for run in runs:
        if run in left:
            left.remove(run)
            common += 1
    assert rouge_n(ours, true, n) == pytest.approx(2 * common / max(total, 1))


@given(
    st.text("ab4.% ", max_size=12),
    st.sampled_from(["4", "0.04", "ab", "a b"]),
    st.sampled_from([None, "OCR", "free-form"]),
)
def test_an_accuracy_is_a_share(answer, truth, kind):
    assert 0 <= RECIPE.accuracy(item("", truth, {"problem_type": kind}), answer) <= 1


def test_a_step_pays_a_tenth_for_captions_that_are_enough_anchors_included():
    """Samples 0 and 2 of each view have a caption; the caption alone is answered rightly for sample 2."""
    prompt = make_prompt("p0", [IMAGE] * 2, text="<image><image>\nHow many?\nFirst describe the image ...", truth="4")
    texts = {0: response("4", "two"), 1: response("4", " "), 2: response("5", "four"), 3: "<answer>4</answer>"}

    def script(request, k):
        if request.extra is not None:
            return ((6 if request.extra.about == 2 else 8), EOS)
        return (*[5] * (k + 1), EOS)

    settings = RECIPE.Settings(weight=0.1)
    hooks = step_hooks(
        shaping=(Named("visionary_r1:CaptionReward", RECIPE.CaptionReward(), settings),),
        requests=Named("visionary_r1:CaptionAlone", RECIPE.CaptionAlone(), settings),
    )
    made = with_requests(parts({}, anchor="mono", anchor_samples=3), hooks)
    made.engine._script = script
    scorer = LocalScorer(f"{ROOT / 'recipe' / 'visionary_r1' / 'functions.py'}:score", "strict")
    decode = lambda ids: texts[list(ids).count(5) - 1] if 5 in ids else ("4" if 6 in ids else "Hacking Sample")  # noqa: E731
    result = one_step(replace(made, decode=decode, scorer=scorer), [prompt])
    (found,) = result.rollouts
    assert [r.reward.score for r in found.multi.rollouts] == pytest.approx([2.0, 2.0, 1.1, 1.0])
    assert [[r.reward.score for r in group.rollouts] for group in found.anchors] == [pytest.approx([2.0, 2.0, 1.1])] * 2
    asked = [request for request in made.engine.requests if request.extra is not None]
    assert [(r.view, r.extra.about, r.images) for r in asked] == [
        (view, about, ()) for view in (None, ("s0",), ("s1",)) for about in (0, 2)
    ]
    assert result.metrics["extra/caption/accuracy/mean"] == 0.5
    assert result.metrics["reward/caption/mean"] == pytest.approx(0.1 / 4)


def test_the_question_is_asked_with_the_caption_alone():
    asked = "First describe the image, then say how many cars there are."
    prompt = make_prompt("p", [IMAGE], text=f"<image>\n{asked}\n\n{RECIPE.INSTRUCTION}, as fully ...")
    check, question = RECIPE.messages(prompt, "four cars")
    assert (check.role, question.text) == ("system", f"Text: four cars\nQuestion: {asked}")
    turns = (Message("system", "Be short."), Message("user", "<image>\nWhich street?"), Message("assistant", "Main."))
    later = make_prompt("p", [IMAGE], messages=(*turns, Message("user", f"{asked}\n{RECIPE.INSTRUCTION}, as ...")))
    assert RECIPE.messages(later, "four cars") == (check, Message("user", "Which street?"), turns[2], question)
    assert "'Hacking Sample'" in check.text
    template = (ROOT / "recipe" / "visionary_r1" / "visionary_r1.jinja").read_text()
    assert template.count(f"\n{RECIPE.INSTRUCTION}") == 1
    facts = step_facts(RECIPE.Settings(weight=0.1))
    assert RECIPE.CaptionAlone().before(prompt, facts) == ()
    for text in ("", "<info></info>", response() + response(), "<info>cut off"):
        assert RECIPE.caption_of(text) is None


@pytest.mark.parametrize("name", ["visionary_r1_qwen2_5_vl_3b", "visionary_r1_tiny"])
def test_the_kl_falls_to_nothing_over_the_run(name):
    """beta / 2 (1 + cos(pi e)) with e the share of the run that is done: 0.04 first, half of it in the middle."""
    config = compose(FOLDER, name)
    (ramp,), steps = config.ramps, config.run.num_steps
    assert (ramp.key, ramp.steps, config.algorithm.kl_coefficient) == ("algorithm.kl_coefficient", steps, 0.04)
    for step in (1, 2, 1 + steps // 2, steps):
        assert ramp.at(step) == pytest.approx(0.04 / 2 * (1 + cos(pi * (step - 1) / steps)), abs=1e-12)
    assert (ramp.at(1), ramp.at(1 + steps // 2)) == (0.04, pytest.approx(0.02))


@pytest.mark.parametrize("name", ["visionary_r1_qwen2_5_vl_3b", "visionary_r1_tiny"])
def test_the_loss_is_that_of_the_public_code(name):
    """Each response counts the same, however long it is, and 1e-4 is added to the deviation."""
    algorithm = compose(FOLDER, name).algorithm
    assert (algorithm.reduction, algorithm.epsilon) == ("seq_mean_token_mean", 1e-4)
    assert (algorithm.unbiased_std, algorithm.kl_estimator) == (True, "k3")
