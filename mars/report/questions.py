"""What a page shows of one question: its images with boxes, its messages, and the answers to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mars.answers.boxes import Box, boxes_by_source
from mars.answers.record import Answer
from mars.errors import MarsError
from mars.report.answers import reward_texts
from mars.report.examples import is_conflict
from mars.report.page import FULL, Page
from mars.types import ImageRef, view_name

if TYPE_CHECKING:
    from PIL.Image import Image

DecodeImage = Callable[[ImageRef], "Image"]

_ANSWERS = 64  # most answers to one question


def shown_question(answers: Sequence[Answer], page: Page, decode_image: DecodeImage) -> dict[str, Any]:
    """One question for the template.

    Each image shows the boxes of the truth, of the multi answers, and of the answers to this image alone.
    """
    first, drawn = answers[0], boxes_by_source(answers)
    pictures = []
    for source in first.sources:
        boxes = asdict(drawn[source.name])
        picture = _picture(source.image, page, decode_image)
        pictures.append({"name": source.name, "alt": _alt(source.name, boxes), "boxes": boxes, "picture": picture})
    return {
        "prompt_id": first.prompt_id,
        "row": first.row,
        "data_source": first.data_source,
        "conflict": is_conflict(answers),
        "messages": first.question,
        "truth": first.truth,
        "pictures": pictures,
        "has_boxes": any(any(picture["boxes"].values()) for picture in pictures),
        "num_answers": len(answers),
        "answers": [_shown_answer(answer) for answer in answers[:_ANSWERS]],
    }


def _alt(name: str, boxes: Mapping[str, Sequence[Box]]) -> str:
    """A text in the place of an image: "infrared image of the question, with boxes: 1 truth, 8 multi"."""
    drawn = ", ".join(f"{len(found)} {kind}" for kind, found in boxes.items() if found)
    return f"{name} image of the question" + (f", with boxes: {drawn}" if drawn else "")


def view_of(answer: Answer) -> str:
    """What the page's filter calls an answer's view: "multi", "infrared", or "multi, blind" (extra request "blind")."""
    return view_name(answer.view) + ("" if answer.extra is None else f", {answer.extra}")


def _shown_answer(answer: Answer) -> dict[str, Any]:
    score, parts = reward_texts(answer)
    value = None if answer.reward is None else answer.reward.score
    return {
        "view": view_of(answer),
        "label": answer.label,
        "value": None if value is None or math.isnan(value) else value,
        "score": score,
        "parts": parts,
        "failed": None if answer.reward is None else answer.reward.failed,
        "length": "–" if answer.response_tokens is None else answer.response_tokens,
        "finish_reason": answer.finish_reason or "stop",
        "text": answer.text,
    }


@dataclass(frozen=True)
class _Picture:
    """uri is None where the image is not shown; `problem` says why."""

    width: int
    height: int
    uri: str | None
    problem: str | None


def _picture(ref: ImageRef, page: Page, decode_image: DecodeImage) -> _Picture:
    width, height = ref.size
    try:
        uri = page.picture(decode_image(ref).convert("RGB"))
    except (MarsError, OSError, ValueError) as error:
        return _Picture(width, height, None, str(error))
    return _Picture(width, height, uri, f"left out: {FULL}" if uri is None else None)
