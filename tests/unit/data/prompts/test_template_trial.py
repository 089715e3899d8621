"""What is found out about a chat template before a run, and what of its rows it leaves out."""

from types import SimpleNamespace

import pytest

from mars.data.prompts.chat_template import TemplateFailure, check_texts
from mars.data.prompts.template_trial import missing_header, roles_of_parts


def tokenizer(write, prompt="<assistant>"):
    """write: (role, content) -> the turn's text. prompt: written for add_generation_prompt."""

    def render(turns, tokenize, add_generation_prompt):
        text = "".join(write(turn["role"], turn["content"]) for turn in turns)
        return text + prompt * add_generation_prompt

    return SimpleNamespace(apply_chat_template=render)


def joined(content):
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def tagged(role, content):
    return f"<{role}>{joined(content)}</{role}>\n"


def instructed(role, content):
    """No tag before a response, as in the templates of Mistral."""
    return f"{joined(content)}</s>" if role == "assistant" else f"[INST]{joined(content)}[/INST]"


def only_parts(role, content):
    return tagged(role, [part for part in content if isinstance(part, dict)])


def only_texts(role, content):
    return tagged(role, content + "")


def no_response(role, content):
    if role == "assistant":
        raise ValueError("no responses here")
    return tagged(role, content)


@pytest.mark.parametrize(
    ("write", "prompt", "header"),
    [
        (tagged, "<assistant>", ""),
        (tagged, "", "<assistant>"),
        (only_parts, "", "<assistant>"),
        (only_texts, "", "<assistant>"),
        (tagged, "<assistant><think>\n", ""),
        (instructed, "", ""),
        (no_response, "", ""),  # it cannot be told
    ],
)
def test_what_is_missing_at_the_end_of_a_prompt(write, prompt, header):
    assert missing_header(tokenizer(write, prompt), {}) == header


def test_a_generation_prompt_that_is_always_there_is_there():
    def render(turns, tokenize, add_generation_prompt):
        return "".join(tagged(turn["role"], turn["content"]) for turn in turns) + "<assistant>"

    assert missing_header(SimpleNamespace(apply_chat_template=render), {}) == ""


@pytest.mark.parametrize(
    ("write", "roles"),
    [
        (tagged, set()),
        (only_texts, set()),
        (no_response, set()),
        (only_parts, {"system", "user", "assistant"}),
        (lambda role, content: (tagged if role == "system" else only_parts)(role, content), {"user", "assistant"}),
    ],
)
def test_which_roles_get_parts(write, roles):
    assert roles_of_parts(tokenizer(write), {}) == roles


SYSTEM, ASK = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is there a bus?"}
SHOWN = {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}]}
THOUGHT = {"role": "assistant", "content": "<think>A bus?</think>\nyes"}


@pytest.mark.parametrize(
    ("turns", "rendered"),
    [
        ((SYSTEM, ASK), "Be brief. Is there a bus?"),
        ((ASK, SYSTEM), "Be brief. Is there a bus?"),  # some templates put the system message elsewhere
        ((SHOWN,), "user: Look:<image>"),
        ((SHOWN, THOUGHT, ASK), "Look: <image> yes Is there a bus?"),  # thoughts of earlier responses may go
    ],
)
def test_texts_that_are_all_there(turns, rendered):
    check_texts(SimpleNamespace(name_or_path="m"), rendered, turns)


@pytest.mark.parametrize(
    ("turns", "rendered", "role"),
    [
        ((SYSTEM, ASK), "Is there a bus?", "system"),
        ((SHOWN,), "<image>", "user"),
        ((ASK, THOUGHT, ASK), "Is there a bus? Is there a bus?", "assistant"),
        ((ASK,), "", "user"),
    ],
)
def test_a_text_that_is_left_out_is_named_by_its_role(turns, rendered, role):
    with pytest.raises(TemplateFailure, match=rf"leaves out the text of the {role} message in a conversation of "):
        check_texts(SimpleNamespace(name_or_path="m"), rendered, turns)
