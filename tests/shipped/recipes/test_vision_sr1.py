"""recipe/vision_sr1: the form of a response, what is asked with its description alone, and what that is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mars.hooks.step_hooks import Named
from mars.rewards.local import LocalScorer
from mars.types import Message
from tests.builders import make_prompt
from tests.fakes.requests import with_requests
from tests.fakes.step import EOS, IMAGE, one_step, parts
from tests.hook_builders import step_facts, step_hooks
from tests.shipped.recipes.recipe_files import ROOT, item, module_of, reward_of

RECIPE = module_of("vision_sr1")


def response(answer="4", description="four cars"):
    return f"<description>{description}</description>\n<think>so</think>\n\\boxed{{{answer}}}"


@pytest.mark.parametrize(
    ("text", "score", "accuracy"),
    [
        (response(), 1.0, 1),
        (response("5"), 0.1, 0),
        ("I see. " + response(), 0.9, 1),
        (response().replace("<think>so</think>", ""), 0.9, 1),
        ("<think>so</think> <description>a</description> \\boxed{4}", 0.9, 1),
        (response() + " \n", 1.0, 1),
        (response() + ".", 0.9, 1),
        (response().replace("</think>", "</think> so"), 0.9, 1),
        ("junk <think>b</think> junk \\boxed{4} and junk", 0.9, 1),
        (response().replace("so", "<think>so</think>"), 0.9, 1),
        (response() + " or \\boxed{5}", 0.1, 0),
        ("4", 0.0, 0),
        ("", 0.0, 0),
    ],
)
def test_accuracy_and_form_by_hand(text, score, accuracy):
    result = reward_of("vision_sr1", "score")(item(text, "4"))
    assert (result.score, result.accuracy) == (pytest.approx(score), accuracy)


def test_the_question_is_asked_without_image_and_instruction():
    template = (ROOT / "recipe" / "vision_sr1" / "vision_sr1.jinja").read_text()
    assert template.count(f"\n{RECIPE.INSTRUCTION}") == 1
    for question in ("How many cars?", "First describe the image, then say how many cars there are."):
        prompt = make_prompt("p", [IMAGE], text=f"<image>\n{question}\n\n{RECIPE.INSTRUCTION}, with ...")
        (message,) = RECIPE.messages(prompt, "four cars")
        assert message.role == "user"
        assert message.text.startswith(f"Text description: four cars\nQuestion: {question}\nThink")


def test_earlier_turns_are_asked_again_without_their_images():
    turns = (Message("user", "<image>\nWhich street is it?"), Message("assistant", "Main Street."))
    last = Message("user", f"Are there cars?\n{RECIPE.INSTRUCTION} ...")
    asked = RECIPE.messages(make_prompt("p", [IMAGE], messages=(*turns, last)), "four cars")
    assert asked[:2] == (Message("user", "Which street is it?"), Message("assistant", "Main Street."))
    assert asked[2].text.startswith("Text description: four cars\nQuestion: Are there cars?\n")


def test_a_step_pays_for_descriptions_that_are_enough_anchors_included():
    """Samples 0 and 2 of each view describe; the description alone is answered rightly for sample 2."""
    prompt = make_prompt("p0", [IMAGE] * 2, text="<image><image>\nHow many?\nFirst describe ...", truth="4")
    texts = {0: response("4", "two"), 1: response("4", " "), 2: response("5", "four"), 3: "\\boxed{4}"}

    def decode(ids):
        return texts[list(ids).count(5) - 1] if 5 in ids else ("\\boxed{4}" if 6 in ids else "\\boxed{7}")

    def script(request, k):
        if request.extra is not None:
            return ((6 if request.extra.about == 2 else 8), EOS)
        return (*[5] * (k + 1), EOS)

    hooks = step_hooks(
        shaping=(Named("vision_sr1:SelfReward", RECIPE.SelfReward(), RECIPE.Settings(weight=1.0)),),
        requests=Named("vision_sr1:DescriptionAlone", RECIPE.DescriptionAlone(), RECIPE.Settings(weight=1.0)),
    )
    made = with_requests(parts({}, anchor="mono", anchor_samples=3), hooks)
    made.engine._script = script
    scorer = LocalScorer(f"{ROOT / 'recipe' / 'vision_sr1' / 'functions.py'}:score", "strict")
    result = one_step(replace(made, decode=decode, scorer=scorer), [prompt])
    (found,) = result.rollouts
    assert [r.reward.score for r in found.multi.rollouts] == pytest.approx([1.0, 1.0, 1.1, 0.9])
    assert [[r.reward.score for r in group.rollouts] for group in found.anchors] == [pytest.approx([1.0, 1.0, 1.1])] * 2
    asked = [request for request in made.engine.requests if request.extra is not None]
    assert [(r.view, r.extra.about, r.images) for r in asked] == [
        (view, about, ()) for view in (None, ("s0",), ("s1",)) for about in (0, 2)
    ]
    assert result.metrics["extra/self_reward/accuracy/mean"] == 0.5
    assert result.metrics["reward/self_reward/mean"] == 0.25


def test_nothing_is_asked_without_one_description_and_before_the_responses():
    facts = step_facts(RECIPE.Settings(weight=1.0))
    assert RECIPE.DescriptionAlone().before(make_prompt("p", [IMAGE]), facts) == ()
    for text in ("", "<description></description>", response() + response(), "<description>cut off"):
        assert RECIPE.description_of(text) is None
    assert RECIPE.description_of(response()) == "four cars"
