"""Read the texts of a row: plain ones, and JSON texts of messages or of parts of a message."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

from mars.data.rows.media import refuse_marker
from mars.data.rows.problems import RowError
from mars.types import IMAGE_MARKER

CONTROL_TOKEN = re.compile(r"<\|[^\s<>|]{1,64}\|>")

_QUOTE = r"\\{0,16}[\"']"  # a quote, in a text that was encoded as JSON up to four times
_LOOKED_AT = 4096  # characters in which a role or a type must stand
# A list of objects, one object, or what Python and numpy print for them; possibly in a Markdown fence, or after
# <image>.
_CONTAINER = re.compile(
    rf"(?:\s|[\ufeff\u200b\u2060]|{IMAGE_MARKER}|```(?:json)?)*+(?:(?:np\.)?array\(\s*+)?b?(?:{_QUOTE}\s*+)*+"
    r"(?P<list>[\[(])?\s*+\{"
)
_ROLE = re.compile(
    rf"{_QUOTE}(?:role|from){_QUOTE}\s*:\s*u?{_QUOTE}(?:system|user|assistant|human|gpt|tool|function){_QUOTE}"
)
_FIRST_KEY = re.compile(rf"{_QUOTE}(?:role|content){_QUOTE}\s*:")
_TYPE = re.compile(rf"{_QUOTE}type{_QUOTE}\s*:\s*u?{_QUOTE}(?:input_)?(?:text|image|image_url|video|audio){_QUOTE}")
_FIRST_PART_KEY = re.compile(rf"u?{_QUOTE}(?:type|text|image){_QUOTE}\s*:")
# What Python prints for a list of other objects: [Message(role='user', …)], [OrderedDict([('role', 'user'), …])].
_OBJECTS = re.compile(
    r"\s*+[\[(]\s*+[A-Za-z_]\w{0,40}+\([\s\[({]*+(?:[\"'](?:role|content)[\"']\s*[,:]|(?:role|content)\s*="
    r"|(?:[\"']type[\"']\s*[,:]|type\s*=)\s*[\"'](?:text|image|image_url|video|audio)[\"'])"
)
_TIMES_WRITTEN = 4  # most times that a text may have been encoded as JSON
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # the escape of one half of a surrogate pair


def load_unicode(text: str | bytes) -> Any:
    """The value of a JSON text from a user's file. bytes: in UTF-8, possibly with a byte order mark.

    Raises ValueError for what is not JSON or not Unicode text, and RecursionError for text that is nested too deeply.
    Half of a surrogate pair, as "\\ud800" without the escape of the other half, is not Unicode text: it can be neither
    tokenized nor written to a file.
    """
    whole = text if isinstance(text, str) else text.decode("utf-8-sig")
    value = json.loads(whole)
    if _HALF_PAIR.search(whole):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it is not Unicode text: it holds half a surrogate pair") from error
    return value


def load_column(name: str, text: str) -> Any:
    """The value of a column's JSON text; the text itself if it is not JSON.

    Raises RowError ("value") for text that is not Unicode, as `load_unicode` says.
    """
    try:
        return load_unicode(text)
    except (json.JSONDecodeError, RecursionError):
        return text
    except ValueError as error:
        raise RowError("value", f"{name}: {error}; correct the text") from error


def checked_text(text: str) -> str:
    """The text, unchanged. Raises RowError if it contains a special token or a marker of another medium ("<video>").

    "<image>" markers are removed before the search, so a token that becomes whole only by their removal is found too.
    """
    refuse_marker(text)
    bare = text.replace(IMAGE_MARKER, "")
    found = CONTROL_TOKEN.search(bare)
    if found or IMAGE_MARKER in bare:
        token = found.group() if found else IMAGE_MARKER
        raise RowError("special_token", f"the text holds the special token {token!r}; remove it from the text")
    return text


def messages_in(text: str) -> list[Any] | None:
    """The messages in a JSON text of messages. None for any other text: it is a question.

    Raises RowError for a text that looks like messages but is not JSON of one message or a list of messages, such as
    Python's repr of a list.

    >>> messages_in('[{"role": "user", "content": "How many?"}]')
    [{'role': 'user', 'content': 'How many?'}]
    >>> messages_in('What is {"role": "user"}?') is None
    True
    """
    start = _CONTAINER.match(text)
    if start is None:
        _refuse_objects(text)
        return None
    head = text[start.end() : start.end() + _LOOKED_AT]
    if not (_ROLE.search(head) or _FIRST_KEY.match(head.lstrip())):
        _refuse_objects(text)
        return None
    found = _loaded(text, "messages")
    turns = found if isinstance(found, list) else [found]
    if not all(isinstance(turn, dict) and "role" in turn for turn in turns):
        raise RowError(
            "prompt", "the text is JSON like messages, but no list of {role, content}; store such a list in prompt"
        )
    return turns


def parts_in(text: str) -> list[Any] | None:
    """The parts that `text`, the content of a message, holds as JSON; None if it does not look like parts.

    Raises RowError for a text that looks like parts but is not JSON, and for messages written as JSON.
    """
    start = _CONTAINER.match(text)
    if start is None:
        _refuse_objects(text)
        return None
    head = text[start.end() : start.end() + _LOOKED_AT]
    if _ROLE.search(head):
        raise RowError("prompt", "the content of a message is a text of messages; store the messages in prompt itself")
    if not _TYPE.search(head) and not (start["list"] and _FIRST_PART_KEY.match(head.lstrip())):
        _refuse_objects(text)
        return None
    found = _loaded(text, "parts")
    return found if isinstance(found, list) else [found]


def _refuse_objects(text: str) -> None:
    """Raises RowError for messages or parts as Python prints a list of objects ("[Message(role='user', ...)]"), and for
    messages whose quotes are written as in HTML ("&quot;")."""
    if _OBJECTS.match(text):
        raise RowError("prompt", "the text is what Python prints for a list of messages; store the list itself")
    head = text[:_LOOKED_AT]
    if "&" in head and (start := _CONTAINER.match(unescape(head))) and _ROLE.search(unescape(head), start.end()):
        raise RowError("prompt", "the text is a list of messages with quotes as in HTML; store the list itself")


def _loaded(text: str, what: str) -> Any:
    """The value of a JSON text, which may have been encoded as JSON up to four times. Raises RowError."""
    try:
        found = load_unicode(text.lstrip("\ufeff \n\r\t"))
        for _ in range(_TIMES_WRITTEN - 1):
            found = load_unicode(found) if isinstance(found, str) else found
        return found
    except (json.JSONDecodeError, RecursionError) as error:
        raise RowError(
            "prompt", f"the text starts like a list of {what} but is no JSON ({error}); store the list itself"
        ) from error
    except ValueError as error:
        raise RowError("value", f"the text of {what}: {error}; correct the text") from error
