"""The reward of SATORI-R1: a caption of the image, boxes of the objects in question, and the answer.

    reward.function: recipe/satori_r1/functions.py:score

A row's `extra_info` has `caption`, a text, and `boxes`, a list of [x1, y1, x2, y2] in pixels of the stored image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mars.errors import DataError
from mars.rewards.box_answers import read_boxes
from mars.rewards.box_metrics import union_iou
from mars.rewards.contract import Size
from mars.rewards.grounding import MAX_EXTRA_BOXES, frame_scale
from mars.rewards.parsing import Box, box_entries, load_json, parse_response, read_blocks, read_box, read_each
from mars.rewards.text_metrics import bleu, rouge_l
from mars.rewards.vqa import answer_accuracy, check_truth
from mars.types import RewardInput, RewardResult

TAGS = ("caption", "bbox", "answer")
BLEU_ORDER = 4
_WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")
MAX_WORDS = 1000  # of a caption: the longest common subsequence takes time with the product of both lengths


def score(item: RewardInput) -> RewardResult:
    """score = format + caption + box + answer, each in [0, 1]. accuracy: of the answer, 0 or 1.

    Raises DataError for a row without caption or boxes, or with a malformed truth.
    """
    caption, boxes = facts_of(item.extra_info)
    said, shown, answered = (_only(item.response, tag) for tag in TAGS)
    parts = {
        "format": float(has_form(item.response, bool(boxes))),
        "caption": 0.0 if said is None else caption_overlap(said, caption),
        "box": 0.0 if shown is None else covered(answered_boxes(item, shown, len(boxes)), boxes),
        "answer": answer_accuracy(item, answered),
    }
    return RewardResult(sum(parts.values()), parts["answer"], parts)


def check_score(truth: str, extra_info: Mapping[str, Any], truth_size: Size | None) -> str | None:
    """What is wrong with a row's truth; None if nothing is.

    Raises DataError if `extra_info` lacks a usable `caption` or `boxes`. `boxes` may be [].
    """
    facts_of(extra_info)
    return check_truth(truth, extra_info, truth_size)


def has_form(response: str, has_boxes: bool) -> bool:
    """Whether a response is a caption, boxes and an answer. Boxes: [[...]]; also [] if the row has no boxes."""
    blocks = read_blocks(response, TAGS)
    shown = "" if blocks is None else blocks[1].strip()
    return (shown.startswith("[[") and shown.endswith("]]")) or (not has_boxes and shown == "[]")


def caption_overlap(caption: str, reference: str) -> float:
    """The mean of BLEU-4 and the F1 of ROUGE-L, in [0, 1], ignoring case. Punctuation counts as words only in BLEU.

    >>> caption_overlap("One person on a road.", "one person on a road.")
    1.0
    """
    tokens, true_tokens = (_WORD_OR_SIGN.findall(text.casefold())[:MAX_WORDS] for text in (caption, reference))
    words, true_words = ([one for one in some if re.match(r"\w", one)] for some in (tokens, true_tokens))
    return (bleu(tokens, true_tokens, BLEU_ORDER) + rouge_l(words, true_words)) / 2


def covered(ours: list[Box] | None, true: list[Box]) -> float:
    """IoU of the area of all `ours` and that of all `true`; 0 for None. Without true boxes: 1 for [], else 0."""
    if ours is None or not true:
        return float(ours == true)
    return union_iou(ours, true)


def answered_boxes(item: RewardInput, text: str, true_boxes: int) -> list[Box] | None:
    """The well-formed boxes of a text, in the frame of the truth. None if `read_boxes` refuses the text, with a limit
    of 100 boxes beyond `true_boxes`, or if its list has only malformed boxes."""
    scale_x, scale_y = frame_scale(item)
    try:
        found = read_boxes(parse_response(f"<answer>{text}</answer>"), true_boxes + MAX_EXTRA_BOXES)
    except ValueError:
        return None
    if found and all(isinstance(box, str) for box in found):
        return None
    return [
        (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
        for box in found
        if not isinstance(box, str)
    ]


def facts_of(extra_info: Mapping[str, Any]) -> tuple[str, list[Box]]:
    """The caption and the boxes of a row. Raises DataError."""
    caption, boxes = extra_info.get("caption"), extra_info.get("boxes")
    if not isinstance(caption, str) or not re.search(r"\w", caption):
        raise DataError(f"extra_info.caption: got {caption!r}; give a text about the image")
    if boxes is None:
        raise DataError("extra_info.boxes: not set; give [[x1, y1, x2, y2], …], or [] where nothing is asked about")
    try:
        text = boxes if isinstance(boxes, str) else str([list(map(float, box)) for box in boxes])
        return caption, [read_box(entry) for entry in box_entries(load_json(text))]
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"extra_info.boxes: {error}; got {str(boxes)[:80]}; give [[x1, y1, x2, y2], …]") from error


def _only(text: str, tag: str) -> str | None:
    found = read_each(text, tag)
    return found[0] if len(found) == 1 else None
