"""One answer of a model as it is kept in a file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mars.types import ImageRef, Message, Source, View

Size = tuple[int, int]

# Longer than any image that can be read, and small enough to compute with.
_MAX_SIDE = 10**8


@dataclass(frozen=True)
class Answer:
    """One answer to one view of one question, with all that scoring and showing it take.

    prompt_id: the same for the same question of the same files. number: place of the question in its files.
    sample: k among the answers to this view. view: None for all sources together, ("infrared",) for one.
    truth_size, response_size: frames of the boxes, as in `mars.types.RewardInput`; None where unknown.
    finish_reason: "stop" or "length"; None where unknown, and so are the token counts.
    sources: all of the question, whichever the view shows; () where unknown.
    """

    prompt_id: str
    number: int
    row: str
    data_source: str
    view: View
    sample: int
    text: str
    truth: str
    truth_size: Size | None
    response_size: Size | None
    extra_info: Mapping[str, Any]
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    question: tuple[Message, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def key(self) -> tuple[str, View, int]:
        return self.prompt_id, self.view, self.sample

    @property
    def order(self) -> tuple[int, str, int, str, int]:
        """What answers are sorted by: question, then multi and each source in the question's order, then sample."""
        names = [source.name for source in self.sources]
        place = -1 if self.view is None else names.index(self.view[0]) if self.view[0] in names else len(names)
        return self.number, self.prompt_id, place, view_name(self.view), self.sample


def view_name(view: View) -> str:
    """multi, or mono_<source>: how a view is called in file names."""
    return "multi" if view is None else f"mono_{view[0]}"


def to_record(answer: Answer) -> dict[str, Any]:
    """The answer as a JSON object."""
    images = [{"name": source.name, "image": vars(source.image)} for source in answer.sources]
    question = [{"role": message.role, "text": message.text} for message in answer.question]
    view = None if answer.view is None else list(answer.view)
    return {**vars(answer), "view": view, "question": question, "sources": images}


def from_record(record: Any) -> Answer:
    """`to_record` reversed. Raises ValueError naming the key that is missing or of the wrong kind."""
    if not isinstance(record, dict):
        raise ValueError(f"want an object; got {type(record).__name__}")
    view = _value(record, "view", list | None)
    if view is not None and not (len(view) == 1 and isinstance(view[0], str)):
        raise ValueError(f"view: want null or one source in a list; got {str(view)[:80]}")
    question, sources = _value(record, "question", list), _value(record, "sources", list)
    truth_size = size_of(_value(record, "truth_size", list | None), "truth_size")
    response_size = size_of(_value(record, "response_size", list | None), "response_size")
    if (truth_size is None) != (response_size is None):
        raise ValueError(f"truth_size, response_size: want both or none; got {truth_size} and {response_size}")
    return Answer(
        prompt_id=_value(record, "prompt_id", str),
        number=_value(record, "number", int),
        row=_value(record, "row", str),
        data_source=_value(record, "data_source", str),
        view=None if view is None else (view[0],),
        sample=_value(record, "sample", int),
        text=_value(record, "text", str),
        truth=_value(record, "truth", str),
        truth_size=truth_size,
        response_size=response_size,
        extra_info=_value(record, "extra_info", dict),
        finish_reason=_value(record, "finish_reason", str | None),
        prompt_tokens=_value(record, "prompt_tokens", int | None),
        response_tokens=_value(record, "response_tokens", int | None),
        question=tuple(Message(_value(turn, "role", str), _value(turn, "text", str)) for turn in question),
        sources=tuple(Source(_value(source, "name", str), _image(_value(source, "image", dict))) for source in sources),
    )


def size_of(value: Any, key: str) -> Size | None:
    """[width, height] in pixels, or None. Raises ValueError."""
    if value is None:
        return None
    good = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
    if not good or not all(0 < side <= _MAX_SIDE for side in value):
        wanted = f"two whole numbers from 1 to {_MAX_SIDE}, width and height"
        raise ValueError(f"{key}: want {wanted}; got {str(value)[:80]}")
    return value[0], value[1]


def _image(record: dict[str, Any]) -> ImageRef:
    size = size_of(_value(record, "size", list), "size")
    if size is None:
        raise ValueError("size: want two positive whole numbers; got null")
    return ImageRef(
        _value(record, "path", str),
        size,
        _value(record, "encoding", str),
        _value(record, "row", int | None),
        _value(record, "slot", int | None),
        size_of(record.get("resized"), "resized"),
    )


def _value(record: Any, key: str, kind: Any) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"{key}: is missing")
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = getattr(kind, "__name__", str(kind))
        raise ValueError(f"{key}: want {wanted}; got {type(value).__name__}")
    return value
