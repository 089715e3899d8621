"""Render a model's chat template, which is a program that comes with the model.

transformers runs it in jinja's sandbox, which keeps it away from the interpreter but lets it loop for ever or fill the
memory. So each template is first rendered in a process that can be killed.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from mars.errors import SetupError

_DEADLINE_S = 10.0  # a real template takes milliseconds; the rest is for a busy machine
_MEMORY_BYTES = 2**30  # beyond what the process has when it starts
_OPEN, _CLOSE = "<think>", "</think>"
_IMAGE = {"type": "image"}
_TEXT = {"type": "text", "text": "Is there a bus?"}
_RESPONSE = "The bus is red."

Turns = list[Mapping[str, Any]]

# What rows can hold. Some templates refuse a system message, or want one, or refuse turns after the first: then rows
# that they refuse cannot be used. One of these must be rendered without an error.
_CONVERSATIONS: tuple[Turns, ...] = (
    [{"role": "user", "content": [_IMAGE, _TEXT]}],
    [{"role": "user", "content": "Is there a bus?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [_IMAGE, _IMAGE, _IMAGE, _TEXT]}],
    [
        {"role": "user", "content": [_TEXT, _IMAGE]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "And a car?"},
    ],
)


class TemplateFailure(SetupError):
    """The chat template does not take the messages of a row. If it takes those of others, only this row is bad."""


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
            f"model.path: {_template_file(tokenizer.name_or_path)}: {_failure(error)} for a conversation of {roles}; "
            "use a model whose template takes these messages, or correct the file"
        ) from error


def refuse_lost_images(tokenizer: Any, turns: Sequence[Mapping[str, Any]], made: int, given: int) -> NoReturn:
    """Always raises TemplateFailure. For the caller that has found that numbers of placeholders and images differ."""
    roles = ", ".join(str(turn["role"]) for turn in turns)
    raise TemplateFailure(
        f"model.path: {_template_file(tokenizer.name_or_path)}: the chat template makes {made} image placeholders of "
        f"{given} images in a conversation of {roles}; use the template of a vision-language model"
    )


def opening_of(generation_prompt: str) -> str:
    """The beginning of a response that the template of a thinking model writes itself: an open "<think>" at the end of
    the generation prompt, with what follows it; "" for other templates.

    >>> opening_of("<|im_start|>assistant\\n<think>\\n")
    '<think>\\n'
    >>> opening_of("<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n")
    ''
    """
    start = generation_prompt.rfind(_OPEN)
    return "" if start < 0 or _CLOSE in generation_prompt[start:] else generation_prompt[start:]


def check_opening(tokenizer: Any, rendered: str, opening: str) -> None:
    """rendered: a conversation with its generation prompt. opening: of the template, see `opening_of`.

    Raises TemplateFailure if this conversation has another opening: its responses would be read wrongly.
    """
    if not rendered.endswith(opening) or (not opening and rendered.rstrip().endswith(_OPEN)):
        raise TemplateFailure(
            f"model.path: {_template_file(tokenizer.name_or_path)}: the chat template ends some prompts with {_OPEN} "
            "and others not; use a model whose template always does the same, or correct the file"
        )


def without_opening(response: str, opening: str) -> str | None:
    """What a model that gets `opening` with the prompt must write for the response; None if the response begins with
    something else. White space after the opening may differ.

    >>> without_opening("<think>a car</think>", "<think>\\n")
    'a car</think>'
    """
    if response.startswith(opening):
        return response[len(opening) :]
    start = response.lstrip()
    return start[len(opening.rstrip()) :].lstrip() if start.startswith(opening.rstrip()) else None


@dataclass(frozen=True)
class WrittenByTemplate:
    """opening: of responses, see `opening_of`. after_response: see `text_after_response`."""

    opening: str
    after_response: str


def try_template(tokenizer: Any, model_path: str, arguments: Mapping[str, Any]) -> WrittenByTemplate:
    """Render some conversations in a separate process, and return what the template writes around responses.

    Raises SetupError if all conversations fail, if rendering needs too much memory, or if the process ends or takes too
    long before it has answered.
    """
    template = tokenizer.chat_template
    key = repr(sorted(template.items())) if isinstance(template, dict) else str(template)
    return _try_once(_Template(key, model_path, tokenizer, arguments))


class _Template:
    """A template to be tried, equal to others with the same text and file."""

    def __init__(self, text: str, model_path: str, tokenizer: Any, arguments: Mapping[str, Any]) -> None:
        self.identity, self.model_path = (text, model_path), model_path
        self.tokenizer, self.arguments = tokenizer, arguments

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Template) and self.identity == other.identity


@lru_cache(maxsize=8)
def _try_once(template: _Template) -> WrittenByTemplate:
    file = _template_file(template.model_path)
    # Forked, because a new interpreter would need a second to import the tokenizer. The child renders and ends: it
    # takes no lock of a thread of this process and starts none.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_render_all, args=(template.tokenizer, template.arguments, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(_DEADLINE_S):
            raise SetupError(
                f"model.path: {file}: the chat template was not rendered within {_DEADLINE_S:g} s; "
                "it may loop for ever; correct it, or download the file again"
            )
        try:
            failure, written = ours.recv()
        except EOFError:
            child.join()
            raise SetupError(
                f"model.path: {file}: the chat template ended the process that rendered it "
                f"(exit code {child.exitcode}); correct it, or download the file again"
            ) from None
        if failure:
            raise SetupError(f"model.path: {file}: {failure}; correct it, or download the file again")
        return written
    finally:
        ours.close()
        child.kill()
        child.join()


def _render_all(tokenizer: Any, arguments: Mapping[str, Any], connection: Connection) -> None:
    """Runs in the child. Sends why the template fails, or None, and what it writes around responses.

    It fails if it takes none of the conversations, or lacks memory. All must end within `_DEADLINE_S` seconds, or the
    parent kills the child.
    """
    with suppress(OSError, ValueError):  # a system without /proc, or a lower limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    errors: list[Exception] = []
    openings: list[str] = []
    for turns in _CONVERSATIONS:
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments)
            openings.append(opening_of(text.rpartition("?")[2]))  # behind the question that ends each conversation
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            errors.append(error)
            if isinstance(error, MemoryError):
                break
    fails = len(errors) == len(_CONVERSATIONS) or isinstance(next(reversed(errors), None), MemoryError)
    if fails:
        connection.send((_failure(errors[0]), None))
    else:
        connection.send((None, WrittenByTemplate(openings[0], text_after_response(tokenizer, arguments))))


def text_after_response(tokenizer: Any, arguments: Mapping[str, Any]) -> str:
    """What the chat template writes after the assistant's last text; "" if it refuses, changes or omits that text.

    Example: "<|im_end|>\\n" for the templates of Qwen.
    """
    question, response = _TEXT["text"], {"type": "text", "text": _RESPONSE}
    # Some templates take only texts, or only lists.
    for asked, answered in (([_TEXT], _RESPONSE), ([_TEXT], [response]), (question, _RESPONSE)):
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        with suppress(Exception):
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False, **arguments)
            if _RESPONSE in text:
                return text.rpartition(_RESPONSE)[2]
    return ""


def _failure(error: Exception) -> str:
    where = getattr(error, "lineno", None)
    line = f" in line {where}" if isinstance(where, int) else ""
    return f"the chat template fails{line} with {type(error).__name__}: {error}"


def _template_file(model_path: str) -> str:
    """The file that holds the template, as transformers looks for it."""
    for name in ("chat_template.jinja", "chat_template.json"):
        if (Path(model_path) / name).is_file():
            return f"{model_path}/{name}"
    return f"{model_path}/tokenizer_config.json"
