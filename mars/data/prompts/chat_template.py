"""Render a model's chat template, which is a program that comes with the model, and check what it wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mars.errors import SetupError

_ADVICE = "use a model whose template takes these messages, or correct the file"
_OPEN, _CLOSE = "<think>", "</think>"
_THOUGHT = re.compile(r"([<\[◁][^\s<>\[\]◁▷|/]{0,20}(?:think|thought|reason)\w{0,10}[>\]▷])\s*\Z", re.IGNORECASE)


class TemplateFailure(SetupError):
    """The chat template does not take the messages of a row. If it takes other rows, only this row is bad."""


def render(tokenizer: Any, turns: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> str:
    """The text of a conversation with the generation prompt at its end.

    arguments: of the template, see `Family.template_arguments`.
    Raises TemplateFailure if the template fails. The template must have passed `try_template`.
    """
    try:
        return tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True, **arguments)
    except Exception as error:
        roles = ", ".join(str(turn["role"]) for turn in turns)
        raise TemplateFailure(
            f"model.path: {template_path(tokenizer.name_or_path)}: {failure_of(error)} for a conversation of {roles}; "
            f"{_ADVICE}"
        ) from error


def refuse_lost_images(tokenizer: Any, turns: Sequence[Mapping[str, Any]], made: int, given: int) -> NoReturn:
    """Always raises TemplateFailure. Call it if the numbers of placeholders and images differ."""
    roles = ", ".join(str(turn["role"]) for turn in turns)
    raise TemplateFailure(
        f"model.path: {template_path(tokenizer.name_or_path)}: the chat template makes {made} image placeholders of "
        f"{given} images in a conversation of {roles}; use the template of a vision-language model"
    )


def opening_of(generation_prompt: str) -> str:
    """The text from an unclosed "<think>" to the end of the generation prompt; "" if there is none.

    The templates of some thinking models write this beginning of every response themselves.

    >>> opening_of("<|im_start|>assistant\\n<think>\\n")
    '<think>\\n'
    >>> opening_of("<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n")
    ''
    """
    start = generation_prompt.rfind(_OPEN)
    return "" if start < 0 or _CLOSE in generation_prompt[start:] else generation_prompt[start:]


def other_opening_of(generation_prompt: str) -> str:
    """The tag that opens a thought at the end of the generation prompt, if it is not "<think>"; else "".

    Rewards find a thought only between <think> and </think>, so with another tag no response could earn the score for
    a thought.

    >>> other_opening_of("assistant\\n<seed:think>\\n"), other_opening_of("assistant\\n<think>\\n")
    ('<seed:think>', '')
    """
    found = _THOUGHT.search(generation_prompt)
    return "" if found is None or found[1] == _OPEN else found[1]


def check_opening(tokenizer: Any, rendered: str, opening: str) -> None:
    """Raises TemplateFailure if a conversation does not end with `opening`, or ends with "<think>"
    although `opening` is "": its responses would be read wrongly.

    rendered: the conversation with its generation prompt. opening: the template's, see `opening_of`.
    """
    if not rendered.endswith(opening) or (not opening and rendered.rstrip().endswith(_OPEN)):
        raise TemplateFailure(
            f"model.path: {template_path(tokenizer.name_or_path)}: the chat template ends some prompts with {_OPEN} "
            "and others not; use a model whose template always does the same, or correct the file"
        )


def without_opening(response: str, opening: str) -> str | None:
    """The response without `opening`, which the prompt holds already; None if the response does not begin with it.

    White space before and after the opening may differ.

    >>> without_opening("<think>a car</think>", "<think>\\n")
    'a car</think>'
    """
    if response.startswith(opening):
        return response[len(opening) :]
    start = response.lstrip()
    return start[len(opening.rstrip()) :].lstrip() if start.startswith(opening.rstrip()) else None


def check_texts(tokenizer: Any, rendered: str, turns: Sequence[Mapping[str, Any]]) -> None:
    """Raises TemplateFailure if a text of the turns is not in `rendered`, the text rendered from them.

    White space around a text may be missing, and so may the thought of an earlier response.
    """
    for turn in turns:
        if any(text not in rendered for text in _texts(turn)):
            roles = ", ".join(str(turn["role"]) for turn in turns)
            raise TemplateFailure(
                f"model.path: {template_path(tokenizer.name_or_path)}: the chat template leaves out the text of the "
                f"{turn['role']} message in a conversation of {roles}; {_ADVICE}"
            )


def _texts(turn: Mapping[str, Any]) -> list[str]:
    content = turn["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
    if turn["role"] == "assistant":
        texts = [text.rpartition(_CLOSE)[2] for text in texts]
    return [text.strip() for text in texts]


def failure_of(error: Exception) -> str:
    """What a template raised, in one line."""
    where = getattr(error, "lineno", None)
    line = f" in line {where}" if isinstance(where, int) else ""
    return f"the chat template fails{line} with {type(error).__name__}: {' '.join(str(error).split()):.300}"


def template_path(model_path: str) -> str:
    """The path of the file that holds the chat template, to name it in an error message. For a model of the hub this is
    always the path of tokenizer_config.json."""
    for name in ("chat_template.jinja", "chat_template.json"):
        if (Path(model_path) / name).is_file():
            return f"{model_path}/{name}"
    return f"{model_path}/tokenizer_config.json"
