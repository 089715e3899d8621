"""Read the columns of one row: messages, images, names, truth. A column that cannot be used raises RowError."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from string import ascii_uppercase
from typing import Any

from mars.data.pixels.cells import IMAGE_COLUMNS, image_column, is_filled
from mars.data.pixels.images import ENCODINGS
from mars.data.rows.media import refuse_media_of_turn, refuse_unread_keys, refuse_unread_words
from mars.data.rows.problems import RowError
from mars.data.rows.texts import checked_text, load_column, messages_in, parts_in
from mars.types import IMAGE_MARKER, MESSAGE_ROLES, Message

BOX_SPACES = ("original_pixels", "norm_1000")
SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
WRAPPED_TRUTH = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|UklGR|R0lGOD|Qk[0-3])[A-Za-z0-9+/\s]{40}")  # PNG, JPEG, WEBP, GIF, BMP
URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://|data:)")

Row = Mapping[str, Any]


def data_source_of(row: Row, default: str) -> str:
    """The column data_source; `default` if the row has none, as rows of EasyR1."""
    declared = row.get("data_source")
    if declared is not None and (not isinstance(declared, str) or not declared):
        raise RowError("data_source", f"data_source must be a text; got {declared!r:.80}")
    return declared or default


def messages_of(row: Row) -> tuple[tuple[Message, ...], list[Any]]:
    """The chat turns, and the images embedded in their content lists (as in the paper's evaluation files).

    Reads verl's `prompt` (a list of turns, or its JSON text) and EasyR1's `problem` or `prompt` (the user's text).
    """
    turns = row.get("prompt") if row.get("prompt") is not None else row.get("problem")
    if isinstance(turns, str):
        turns = messages_in(turns) or [{"role": "user", "content": turns}]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise RowError("prompt", f"needs a column prompt (a text, or a list of messages){_instead_of_prompt(row)}")
    inline: list[Any] = []
    messages = []
    refuse_unread_words({"tools": row.get("tools")})
    for turn in turns:
        if turn.get("role") not in MESSAGE_ROLES:
            raise RowError("prompt", f"role must be one of {', '.join(MESSAGE_ROLES)}; got {turn.get('role')!r}")
        refuse_media_of_turn(turn)
        refuse_unread_words(turn)
        messages.append(Message(turn["role"], _text(turn.get("content"), inline)))
    if messages[-1].role != "user":
        raise RowError("prompt", f"the last message must be the user's; got role {messages[-1].role!r}")
    if not messages[-1].text.replace(IMAGE_MARKER, "").strip():
        raise RowError("prompt", "the user's message has no text")
    return tuple(messages), inline


def _instead_of_prompt(row: Row) -> str:
    """The end of the error message: a wrong value of `prompt`, or a column with a similar name; "" if neither."""
    if row.get("prompt") is not None:
        return f"; got {row['prompt']!r:.80}"
    similar = get_close_matches("prompt", row, n=1)
    return f"; the row has {similar[0]!r}: rename it" if similar and similar[0] != "prompt" else ""


def _text(content: Any, inline: list[Any]) -> str:
    """The text of a message, with image markers. The images of a list of parts are appended to `inline`."""
    if isinstance(content, str):
        parts = parts_in(content)
        if parts is None:
            return checked_text(content)
        content = parts
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise RowError("prompt", f"message content must be a text or a list of parts; got {type(content).__name__}")
    has_images = any(part.get("type") == "image" for part in content)
    texts = []
    for part in content:
        text = part.get("text")
        if part.get("type") == "image":
            # Data sets for TRL give `index`, the image's position in the row. Images are taken in order of appearance,
            # so another index is refused.
            is_in_order = part.get("index") == len(inline)
            refuse_unread_keys(part, ("type", "image", "index") if is_in_order else ("type", "image"))
            refuse_unread_keys(part.get("image"))
            texts.append(IMAGE_MARKER)
            inline.append(part.get("image"))
        elif part.get("type") != "text" or not isinstance(text, str):
            raise wrong_part(part)
        elif has_images and IMAGE_MARKER in text:
            raise RowError("special_token", f"the text of a content list with images holds {IMAGE_MARKER}; remove it")
        else:
            refuse_unread_keys(part, ("type", "text"))
            texts.append(text)
    return checked_text("".join(texts))


def wrong_part(part: Row) -> RowError:
    """Why a part of a content list is not read."""
    if any(medium in str(part.get("type")) for medium in ("video", "audio")):
        return RowError("video", f"content parts must be of type text or image; got {part.get('type')!r:.80}")
    return RowError(
        "prompt",
        f"content parts must be of type text or image; got {part.get('type')!r:.80}; write "
        "{type: text, text: …} or {type: image, image: path or bytes}",
    )


def response_of(row: Row, required: bool) -> str | None:
    """The example response for a supervised cold start; None if the row has none and it is not `required`."""
    response = row.get("response")
    if response is None:
        if required:
            raise RowError("response", "a cold start needs a response column; this row has none")
        return None
    if not isinstance(response, str) or not response.strip():
        raise RowError("response", f"response must be a text; got {response!r:.80}")
    return checked_text(response)


def mono_responses_of(row: Row, names: Sequence[str]) -> dict[str, str]:
    """The column mono_responses: source -> an example response to its image alone. Empty without the column.

    The column holds a mapping, or its JSON text, as converters write it.

    names: the names of the row's sources.
    """
    declared = row.get("mono_responses")
    if declared is None:
        return {}
    if isinstance(declared, str):
        declared = load_column("mono_responses", declared)
    if not isinstance(declared, dict):
        raise RowError("response", f"mono_responses must map sources to texts; got {declared!r:.80}")
    given = {name: text for name, text in declared.items() if text is not None}
    unknown = [name for name in given if name not in names]
    if unknown:
        raise RowError("response", f"mono_responses names {unknown}, but the row's sources are {list(names)}")
    for name, text in given.items():
        if not isinstance(text, str) or not text.strip():
            raise RowError("response", f"the mono response of {name} must be a text; got {text!r:.80}")
    return {name: checked_text(text) for name, text in given.items()}


def image_cells(row: Row, inline: Sequence[Any]) -> list[Any]:
    """The row's images as they are stored: paths, bytes, or {bytes, path}."""
    for name in IMAGE_COLUMNS:
        for cell in _as_list(row.get(name)):
            refuse_unread_keys(cell)
    column = image_column(row)
    if column is None or not is_filled(row[column]):
        return list(inline)
    filled = [_as_list(row[name]) for name in IMAGE_COLUMNS if is_filled(row.get(name))]
    if any(found != filled[0] for found in filled):
        raise RowError("sources", "different images in the columns images and image; keep one of the columns")
    if any(item is not None for item in inline):
        raise RowError("sources", f"images both in the column {column} and in the messages; keep one")
    return filled[0]


def _as_list(cells: Any) -> list[Any]:
    return list(cells) if isinstance(cells, list) else [cells]


def extra_info_of(row: Row) -> dict[str, Any]:
    """The column extra_info, with the fields that its `more_fields` holds as JSON text."""
    extra = row.get("extra_info")
    if extra is None:
        return {}
    if not isinstance(extra, dict):
        raise RowError("extra_info", f"extra_info must be a mapping; got {type(extra).__name__}")
    more = extra.get("more_fields")
    if more is None:
        return dict(extra)
    fields = load_column("extra_info.more_fields", more) if isinstance(more, str) else None
    if not isinstance(fields, dict):
        raise RowError("extra_info", f"extra_info.more_fields must be the JSON text of a mapping; got {more!r:.80}")
    own = {name: value for name, value in extra.items() if value is not None and name != "more_fields"}
    return fields | own


def check_box_space(extra: Row) -> None:
    if extra.get("box_space") not in (None, *BOX_SPACES):
        raise RowError("extra_info", f"box_space must be one of {', '.join(BOX_SPACES)}; got {extra['box_space']!r}")


def check_choices(extra: Row) -> None:
    """Refuse choices that templates cannot write and rewards cannot read, whichever reward or template the row has.

    The reward checks whether the truth is one of them. extra: a result of `with_plain_choices`.
    """
    given = extra.get("choices")
    if given is None:
        return
    if not isinstance(given, list) or not all(isinstance(option, str) and option.strip() for option in given):
        raise RowError(
            "choices",
            f"the choices must be a list of texts, or a mapping of letters A, B, … to texts; got {given!r:.120}",
        )
    if len(given) > len(ascii_uppercase):
        raise RowError("choices", f"at most {len(ascii_uppercase)} choices; got {len(given)}")


def source_names(extra: Row, num_images: int) -> tuple[str, ...]:
    """extra_info.sources. If it is missing: view_1, view_2 ..., or "image" for a single image."""
    declared = extra.get("sources")
    if declared is None:
        return ("image",) if num_images == 1 else tuple(f"view_{i}" for i in range(1, num_images + 1))
    if not isinstance(declared, list) or len(declared) != num_images:
        raise RowError("sources", f"extra_info.sources names {declared!r:.120} but the row has {num_images} images")
    for name in declared:
        if not isinstance(name, str) or not SOURCE_NAME.fullmatch(name):
            raise RowError("sources", f"source names are letters, digits, '_', '.' and '-'; got {name!r:.80}")
    if len(set(declared)) != len(declared):
        raise RowError("sources", f"source names must differ; got {declared}")
    return tuple(declared)


def encodings_of(extra: Row, names: Sequence[str]) -> tuple[str, ...]:
    """extra_info.encodings, a list in source order or a mapping by source; a source without one has "rgb"."""
    declared = extra.get("encodings")
    if isinstance(declared, dict):
        unknown = [name for name, value in declared.items() if value is not None and name not in names]
        if unknown:
            raise RowError("encodings", f"extra_info.encodings names sources {unknown} that the row does not have")
        declared = [declared.get(name) for name in names]
    if declared is None:
        declared = [None] * len(names)
    if not isinstance(declared, list) or len(declared) != len(names):
        raise RowError("encodings", f"extra_info.encodings must have one entry for each of {list(names)}")
    for encoding in declared:
        if encoding not in (None, *ENCODINGS):
            raise RowError("encodings", f"unknown image encoding; got {encoding!r}; use one of {', '.join(ENCODINGS)}")
    return tuple(encoding or "rgb" for encoding in declared)


def truth_of(row: Row) -> str:
    """verl's reward_model.ground_truth or EasyR1's answer, without its <answer> tags; lists as JSON text."""
    reward_model = row.get("reward_model")
    if reward_model is not None and not isinstance(reward_model, dict):
        raise RowError("truth", f"reward_model must be a mapping; got {type(reward_model).__name__}")
    truth = reward_model.get("ground_truth") if reward_model else row.get("answer")
    if truth is None:
        raise RowError("truth", "no ground truth; needs reward_model.ground_truth or answer")
    if isinstance(truth, bool) or not isinstance(truth, str | int | float | list | dict):
        raise RowError("truth", f"the ground truth must be a text; got {type(truth).__name__}")
    try:
        text = truth if isinstance(truth, str) else json.dumps(truth, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RowError("truth", f"the ground truth cannot be written as JSON: {error}") from error
    wrapped = WRAPPED_TRUTH.fullmatch(text)
    text = (wrapped.group(1) if wrapped else text).strip()
    if not text:
        raise RowError("truth", "the ground truth is empty")
    return text


def check_declared_size(extra: Row, slot: int, num_images: int, size: tuple[int, int]) -> None:
    """extra_info.image_sizes, where given, must be the sizes of the stored images after EXIF rotation."""
    declared = extra.get("image_sizes")
    if declared is None:
        return
    if not isinstance(declared, list) or len(declared) != num_images:
        raise RowError("image_sizes", f"extra_info.image_sizes must have one [width, height] for each of {num_images}")
    if declared[slot] != list(size):
        raise RowError("image_sizes", f"image {slot} is {list(size)} but extra_info.image_sizes says {declared[slot]}")


def confined_path(path: Any, root: str) -> str:
    """The absolute path of an image whose `path` is relative to `root`. Raises RowError if it leads out of `root`.

    root: a folder whose own path has no symbolic links.
    """
    if not isinstance(path, str) or not path:
        raise RowError("image_missing", f"an image needs a path or bytes; got {path!r:.80}")
    if _BASE64.match(path):
        raise RowError("image_path", f"an image in base64 is not read; got {path:.30}…; store the bytes or the file")
    if UNPRINTABLE.search(path):
        raise RowError("image_path", f"control characters in an image path; got {path!r:.80}")
    if URL.match(path):
        raise RowError("image_path", f"image URLs are not read; got {path!r:.120}; store the file")
    if os.path.isabs(path) or path.startswith(("~", "\\")) or re.match(r"[A-Za-z]:", path):
        raise RowError("image_path", f"image paths are relative to data.image_root; got {path!r:.200}")
    if ".." in re.split(r"[/\\]", path):
        raise RowError("image_path", f"'..' in an image path; got {path!r:.200}; store it relative to data.image_root")
    full = os.path.realpath(os.path.join(root, path))
    if os.path.commonpath([full, root]) != root:
        raise RowError("image_path", f"the image path {path!r:.200} is a link out of data.image_root")
    return full
