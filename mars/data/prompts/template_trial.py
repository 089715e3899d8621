"""Try a model's chat template before a run, and find out what it writes around responses.

transformers runs a template in jinja's sandbox. It cannot reach the interpreter there, but it can loop for ever or fill
the memory. So each template is first rendered in a process that can be killed.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mars.data.prompts.chat_template import failure_of, opening_of, other_opening_of, template_path
from mars.errors import SetupError
from mars.types import MESSAGE_ROLES

_DEADLINE_S = 10.0  # a real template takes milliseconds; the rest is for a busy machine
_MEMORY_BYTES = 2**30  # beyond what the process has when it starts
_IMAGE = {"type": "image"}
_TEXT = {"type": "text", "text": "Is there a bus?"}
_RESPONSE = "The bus is red."

Turns = list[Mapping[str, Any]]

# Conversations as rows may hold them. A template may refuse some of them, for example those with a system message or
# with several turns; such rows are bad then.
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


@dataclass(frozen=True)
class WrittenByTemplate:
    """opening: the beginning of responses, see `opening_of`. after_response: see `text_after_response`.

    parts_only: roles whose texts the template takes only as [{"type": "text", "text": ...}], see `roles_of_parts`.
    """

    opening: str
    after_response: str
    parts_only: frozenset[str] = frozenset()


def try_template(tokenizer: Any, model_path: str, arguments: Mapping[str, Any]) -> WrittenByTemplate:
    """Render some conversations in a separate process, and return what the template writes around responses.

    Raises SetupError if
    - all conversations fail, or rendering needs too much memory;
    - the template has no generation prompt (`missing_header`), or opens a thought with another tag than <think>;
    - the process ends without an answer, or takes too long.
    """
    template = tokenizer.chat_template
    key = repr(sorted(template.items())) if isinstance(template, dict) else str(template)
    return _try_once(_Template(key, model_path, tokenizer, arguments))


class _Template:
    """A template to be tried, equal to others with the same text and `model_path`."""

    def __init__(self, text: str, model_path: str, tokenizer: Any, arguments: Mapping[str, Any]) -> None:
        self.identity, self.model_path = (text, model_path), model_path
        self.tokenizer, self.arguments = tokenizer, arguments

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Template) and self.identity == other.identity


@lru_cache(maxsize=8)
def _try_once(template: _Template) -> WrittenByTemplate:
    file = template_path(template.model_path)
    # Forked, because a new interpreter would need a second to import the tokenizer. This is safe, because the child
    # only renders and ends: it takes no lock that a thread of this process may hold, and starts no thread.
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
    """Runs in the child process. Sends (None, what the template writes around responses), or (why it fails, None)."""
    with suppress(OSError, ValueError):  # there is no /proc, or the limit is lower already
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    errors: list[Exception] = []
    openings: list[str] = []
    others: list[str] = []
    for turns in _CONVERSATIONS:
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments)
            generation_prompt = text.rpartition("?")[2]  # behind the question that ends each conversation
            openings.append(opening_of(generation_prompt))
            others.append(other_opening_of(generation_prompt))
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            errors.append(error)
            if isinstance(error, MemoryError):
                break
    fails = len(errors) == len(_CONVERSATIONS) or isinstance(next(reversed(errors), None), MemoryError)
    header = "" if fails else missing_header(tokenizer, arguments)
    if fails:
        connection.send((failure_of(errors[0]), None))
    elif any(others):
        failure = (
            f"the chat template begins responses with {max(others)!r}, but rewards read a thought in <think> alone"
        )
        connection.send((failure, None))
    elif header:
        failure = f"the chat template writes {header!r} before a response, but not at the end of a prompt"
        connection.send((f"{failure}, because it does not read add_generation_prompt", None))
    else:
        after, parts_only = text_after_response(tokenizer, arguments), roles_of_parts(tokenizer, arguments)
        connection.send((None, WrittenByTemplate(openings[0], after, parts_only)))


def missing_header(tokenizer: Any, arguments: Mapping[str, Any]) -> str:
    """What the chat template writes before a response, but not at the end of a prompt with a generation prompt.

    A policy would have to write this text itself, while the cold start teaches responses without it. "" if nothing is
    missing, or if nobody can tell because the template refuses, changes or omits a response.
    Example: "<|im_start|>assistant" for a ChatML template that ignores `add_generation_prompt`.
    """
    for asked, answered in _spellings():
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        with suppress(Exception):
            plain, prompt = (
                tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=wanted, **arguments)
                for wanted in (False, True)
            )
            whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False, **arguments)
            if plain == prompt and whole.startswith(prompt) and _RESPONSE in whole:
                return whole[len(prompt) :].partition(_RESPONSE)[0].strip()
    return ""


def roles_of_parts(tokenizer: Any, arguments: Mapping[str, Any]) -> frozenset[str]:
    """The roles whose text the template writes only if the text comes as a list of parts.

    Some templates loop over the parts of each message, and find none in a plain text.
    """
    user = {"role": "user", "content": [_IMAGE, _TEXT]}

    def writes(role: str, content: Any) -> bool:
        turn = {"role": role, "content": content}
        turns = {"system": [turn, user], "user": [turn], "assistant": [user, turn, user]}[role]
        with suppress(Exception):
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments)
            return _RESPONSE in text
        return False

    parts = [{"type": "text", "text": _RESPONSE}]
    return frozenset(role for role in MESSAGE_ROLES if not writes(role, _RESPONSE) and writes(role, parts))


def _spellings() -> Iterator[tuple[Any, Any]]:
    """A question and a response, each as a text or a list of parts: some templates take texts only, others lists
    only."""
    response = {"type": "text", "text": _RESPONSE}
    yield from (([_TEXT], _RESPONSE), ([_TEXT], [response]), (_TEXT["text"], _RESPONSE))


def text_after_response(tokenizer: Any, arguments: Mapping[str, Any]) -> str:
    """What the chat template writes after the assistant's last text; "" if it refuses, changes or omits that text.

    Example: "<|im_end|>\\n" for the templates of Qwen.
    """
    for asked, answered in _spellings():
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        with suppress(Exception):
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False, **arguments)
            if _RESPONSE in text:
                return text.rpartition(_RESPONSE)[2]
    return ""
