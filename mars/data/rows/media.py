"""Refuse rows with pictures, videos or sound in places that mars does not read: the model would not get them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mars.data.pixels.cells import IMAGE_COLUMNS, is_filled
from mars.data.rows.problems import RowError
from mars.types import IMAGE_MARKER

MEDIA_COLUMNS = ("videos", "video", "audios", "audio")
_KNOWN = (*IMAGE_COLUMNS, *MEDIA_COLUMNS)
OTHER_MEDIA = re.compile(
    r"(?:images?|imgs?|pictures?|photos?|videos?|audios?|frames?)"
    r"(?:_?(?:paths?|urls?|files?|file_?names?|bytes|base64|b64|list|\d{1,2}))?",
    re.IGNORECASE,
)
"""Names of other columns that hold pictures, videos or sound in public sets, such as image_path and img."""

_MAY_BE_MEDIA = re.compile(
    r"(?:\w{1,40}_)?(?:images?|imgs?|pictures?|photos?|videos?|clips?|audios?|frames?|media|urls?)(?:_\w{1,20})?"
    r"|multi_?modal_?\w{1,20}|mm_?\w{1,20}",
    re.IGNORECASE,
)
"""Names of columns that hold media in some sets and other things in others, such as decoded_image and media: their
values decide (`_looks_like_media`)."""

_MULTI_MODAL = re.compile(r"multi_?modal_?\w{1,20}|mm_?\w{1,20}", re.IGNORECASE)
_MEDIA_FILE = re.compile(
    r"^data:(?:image|video|audio)/"
    r"|\.(?:png|jpe?g|webp|bmp|gif|tiff?|ppm|mp4|avi|mov|mkv|webm|m4v|wav|mp3|flac|ogg|m4a)(?:[?#]\S*)?\s*$",
    re.IGNORECASE,
)

IMAGE_LIMITS = (
    "min_pixels", "max_pixels", "total_pixels", "resized_height", "resized_width", "nframes", "fps", "min_frames",
    "max_frames", "video_start", "video_end",
)  # fmt: skip
"""Size limits of a single image or video, which qwen-vl-utils reads from the mapping of this image or video."""

IMAGE_KEYS = ("bytes", "path")
"""Keys of an image that is a mapping."""

_TOOLS = ("tool_calls", "function_call", "tools", "tool_call_id")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")

_MARKER = re.compile(r"<(?:video|audio)s?[ _-]?\d{0,4}>|\{(?:video|audio)#\d{1,4}\}", re.IGNORECASE)
_IMAGE_TAG = re.compile(r"<images?[ _-]?\d{0,4}>|\{image#\d{1,4}\}", re.IGNORECASE)

Row = Mapping[str, Any]


def is_other_media(column: str) -> bool:
    """Whether a column's name is like that of media, and the column is not in IMAGE_COLUMNS or MEDIA_COLUMNS."""
    return column not in _KNOWN and any(name.fullmatch(column) for name in (OTHER_MEDIA, _MAY_BE_MEDIA))


def _looks_like_media(value: Any, depth: int = 3) -> bool:
    """Whether a value is or contains bytes, or the path or address of a picture, a video or sound.

    >>> _looks_like_media({"video": ["clips/1.mp4"]}), _looks_like_media("a clip of 3 s")
    (True, False)
    """
    if isinstance(value, dict) and depth:
        return any(_looks_like_media(one, depth - 1) for one in value.values())
    if isinstance(value, list) and depth:
        return any(_looks_like_media(one, depth - 1) for one in value)
    return bool(value) if isinstance(value, bytes) else isinstance(value, str) and bool(_MEDIA_FILE.search(value))


def _holds_video(name: str, value: Any) -> bool:
    """Whether a column holds videos or sound: by its own name and value, or under a key of its mapping.

    >>> _holds_video("videos", ["1.mp4"]), _holds_video("mm_data", {"video": ["1.mp4"], "image": None})
    (True, True)
    >>> _holds_video("video_id", "7"), _holds_video("video_path", None)
    (False, False)
    """
    if name in MEDIA_COLUMNS:
        return is_filled(value)
    if _MULTI_MODAL.fullmatch(name) and isinstance(value, Mapping):
        return any(is_filled(value.get(medium)) for medium in MEDIA_COLUMNS)
    is_named = name.lower().startswith(("video", "audio")) and OTHER_MEDIA.fullmatch(name)
    return bool(is_named) and _looks_like_media(value)


def refuse_videos(row: Row) -> None:
    """Raises RowError ("video") if a column of the row holds a video or sound."""
    for name, value in row.items():
        if _holds_video(name, value):
            raise RowError(
                "video",
                f"the row has a value in the column {name}, which is not read; use rows with images, or remove the "
                "column if the question is about the row's images alone",
            )


def refuse_media_of_turn(turn: Row) -> None:
    """Raises RowError if a message has media under keys beside `content`."""
    refuse_videos(turn)
    filled = [name for name in IMAGE_COLUMNS if is_filled(turn.get(name))]
    if filled:
        raise RowError("sources", f"a message has a value under {filled[0]}; move it to the row's column images")


def refuse_unread_words(turn: Row) -> None:
    """Raises RowError if a message has tool calls, or reasoning, under keys beside `content`."""
    for names, what, remedy in (
        (_TOOLS, "tools are not read", "use rows without them"),
        (_THOUGHTS, "a thought beside the content of a message is not read", "write it into the content"),
    ):
        for name in names:
            if turn.get(name) not in (None, "", [], {}, "[]"):
                raise RowError("prompt", f"{what}; got {name}={turn[name]!r:.80}; {remedy}")


def refuse_unread_keys(image: Any, read: Sequence[str] = IMAGE_KEYS) -> None:
    """Raises RowError for an image, or a part of a message, with a value under a key that is not in `read`.

    The reason is "image_limits" for a key of IMAGE_LIMITS, and "unread_key" for any other key, such as OpenAI's
    `detail`.

    image: a content part, or a cell of the row's images.
    """
    if not isinstance(image, Mapping):
        return
    found = {key: value for key, value in image.items() if key not in read and _is_said(value)}
    limits, others = (
        ", ".join(f"{key}={value!r:.40}" for key, value in found.items() if (key in IMAGE_LIMITS) == is_limit)
        for is_limit in (True, False)
    )
    if limits:
        raise RowError(
            "image_limits",
            f"an image has {limits} beside it, which is not read; remove it, and set data.min_image_pixels "
            "and data.max_image_pixels, or data.source_image_pixels for one source",
        )
    if others:
        what = "an image" if read is IMAGE_KEYS else f"a part of type {image.get('type')}"
        raise RowError(
            "unread_key", f"{what} has {others}, which is not read; remove it, and keep only {' and '.join(read)}"
        )


def _is_said(value: Any) -> bool:
    """Whether a key has a value. Parquet gives all mappings of a file the same keys, with null where a row has none."""
    return is_filled(value) if isinstance(value, str | bytes | list | dict) else value is not None


def refuse_unread_images(row: Row, *unread: str) -> None:
    """For a row without an image: raises RowError if a column seems to hold media, judged by its name and value.

    unread: names of columns that mars reads in other kinds of rows, but not in this kind. The fields of extra_info are
        not searched: they are for the reward.
    """
    for name, value in row.items():
        if _is_unread(name, value, unread) and not _holds_video(name, value):  # refuse_videos refuses it
            raise RowError(
                "sources",
                f"the row has no image, but a value in the column {name}, which is not read; "
                "give the row its images in the column images, or remove the other column",
            )


def _is_unread(name: str, value: Any, unread: Sequence[str]) -> bool:
    if name in unread or (name not in _KNOWN and OTHER_MEDIA.fullmatch(name)):
        return not isinstance(value, int | float) and is_filled(value)
    return name not in _KNOWN and _MAY_BE_MEDIA.fullmatch(name) is not None and _looks_like_media(value)


def refuse_image_tags(text: str) -> None:
    """For a row without an image: raises RowError ("sources") for a tag that stands for one, such as "<image 1>"."""
    tag = _IMAGE_TAG.search(text.replace(IMAGE_MARKER, ""))
    if tag:
        raise RowError("sources", f"the text holds {tag.group()}, but the row has no image; add it, or remove the tag")


def refuse_marker(text: str) -> None:
    """Raises RowError ("video") for a marker of a video or of sound, such as "<video>", "<audio 1>" or "{video#1}"."""
    media = _MARKER.search(text)
    if media:
        raise RowError("video", f"the text holds {media.group()}, but only images are read; use rows with images")
