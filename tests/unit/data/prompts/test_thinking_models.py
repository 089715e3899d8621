"""A chat template that ends the prompt with <think>: the response's text has the tag, its tokens do not."""

from types import SimpleNamespace

import pytest

from mars.data.prompts.chat import MissingOpening, PromptEncoder
from mars.data.prompts.chat_template import (
    TemplateFailure,
    check_opening,
    opening_of,
    other_opening_of,
    without_opening,
)
from mars.rewards.functions import RewardsBySet, load_reward
from mars.types import Message, RewardInput, TokenRules

END = 1


class Letters:
    """A tokenizer with one token per character. last: what the chat template puts at the end of a prompt."""

    name_or_path = "model"

    def __init__(self, last):
        self.last, self.added_tokens_decoder = last, {}

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids, **options):
        return "".join(chr(id_) for id_ in ids if id_ != END)

    def apply_chat_template(self, turns, **options):
        return turns[-1]["content"] + "\nassistant\n" + (self.last(turns) if callable(self.last) else self.last)


def encoder(last, opening):
    return PromptEncoder(Letters(last), TokenRules(0, (END,), END, (), (), ()), {}, opening=opening)


THINKING = encoder("<think>\n", "<think>\n")


@pytest.mark.parametrize(
    ("generation_prompt", "opening"),
    [
        ("<|im_end|>\n<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("assistant\n<think>", "<think>"),
        ("assistant\n<think>\nLet me see. ", "<think>\nLet me see. "),
        ("assistant\n<think>\n\n</think>\n\n", ""),
        ("assistant\n<think>\n</think><think>\n", "<think>\n"),
        ("assistant\n", ""),
    ],
)
def test_what_the_prompt_holds_of_the_response(generation_prompt, opening):
    assert opening_of(generation_prompt) == opening


@pytest.mark.parametrize(
    ("generation_prompt", "tag"),
    [
        ("<|im_start|>assistant\n<seed:think>\n", "<seed:think>"),
        ("assistant\n<thinking>", "<thinking>"),
        ("assistant\n<reasoning>\n\n", "<reasoning>"),
        ("assistant: [THINK]", "[THINK]"),
        ("assistant ◁think▷", "◁think▷"),
        ("assistant\n<Think>\n", "<Think>"),
        ("assistant\n<think>\n", ""),
        ("assistant\n<think>", ""),
        ("assistant\n<think>\n\n</think>\n\n", ""),
        ("assistant\n<seed:think></seed:think>\n", ""),
        ("<|start_think|>assistant", ""),
        ("<start_of_turn>model\n", ""),
    ],
)
def test_a_thought_in_another_tag_is_seen(generation_prompt, tag):
    assert other_opening_of(generation_prompt) == tag


@pytest.mark.parametrize(
    ("response", "written"),
    [
        ("<think>\na car</think>", "a car</think>"),
        ("<think>a car</think>", "a car</think>"),
        ("\n<think> a car</think>", "a car</think>"),
        ("<think></think>", "</think>"),
        ("a car</think>", None),
        ("<answer>yes</answer>", None),
    ],
)
def test_what_the_model_must_write_of_a_response(response, written):
    assert without_opening(response, "<think>\n") == written
    assert without_opening(response, "") == response


@pytest.mark.parametrize("reward", ["vqa", "grounding"])
def test_a_perfect_response_gets_the_score_that_a_dry_run_promises(reward):
    truth, answer, most = {
        "vqa": ("yes", "yes", 1.5), "grounding": ("[[1, 2, 3, 4]]", "```json\n[[1, 2, 3, 4]]\n```", 1.75),
    }[reward]  # fmt: skip
    score = load_reward(RewardsBySet(reward, {}), "strict")
    for made, written in ((THINKING, "a bus</think>"), (encoder("", ""), "<think>a bus</think>")):
        text = made.decode([*map(ord, f"{written}<answer>{answer}</answer>"), END])
        assert score(RewardInput("set", None, text, truth, None, None, {})).score == most


def test_the_response_that_is_trained_on_follows_the_prompt():
    """Prompt and response together have the tag once, and what is read back is the response."""
    response = "<think>\na bus</think><answer>yes</answer>"
    prompt = THINKING.encode((Message("user", "Bus?"),), 0)
    ids = THINKING.encode_response(response)
    assert THINKING._tokenizer.decode((*prompt, *ids)) == "Bus?\nassistant\n" + response
    assert THINKING.decode(ids) == response
    assert THINKING.decode(()) == "<think>\n"
    with pytest.raises(MissingOpening, match=r"begins every response with '<think>', but .* 'no thought'; write"):
        THINKING.encode_response("no thought")


def test_a_template_that_does_not_always_think_is_refused_where_it_differs():
    sometimes = encoder(lambda turns: "<think>\n" if len(turns) == 1 else "", "<think>\n")
    sometimes.encode((Message("user", "Bus?"),), 0)
    with pytest.raises(TemplateFailure, match="ends some prompts with <think> and others not"):
        sometimes.encode((Message("system", "Be brief."), Message("user", "Bus?")), 0)
    with pytest.raises(TemplateFailure):
        check_opening(SimpleNamespace(name_or_path="m"), "Bus?\nassistant\n<think>\n", "")
    check_opening(SimpleNamespace(name_or_path="m"), "What is <think>?\nassistant\n", "")
