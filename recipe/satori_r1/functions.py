"""The reward of SATORI-R1: a caption of the image, boxes of what the question is about, and the answer.

    reward.function: recipe/satori_r1/functions.py:score

A row's `extra_info` has `caption`, a text, and `boxes`, a list of [x1, y1, x2, y2] in pixels of the stored image.
"""

from __future__ import annotations

from mars.errors import DataError
from mars.rewards.box_answers import read_boxes
from mars.rewards.box_metrics import union_iou
from mars.rewards.grounding import MAX_EXTRA_BOXES, frame_scale
from mars.rewards.parsing import Box, box_entries, load_json, parse_response, read_blocks, read_box, read_each
from mars.rewards.text_metrics import bleu, rouge_l
from mars.rewards.vqa import answer_accuracy
from mars.types import RewardInput, RewardResult

TAGS = ("caption", "bbox", "answer")
BLEU_ORDER = 4
MAX_WORDS = 1000  # of a caption: the longest common subsequence takes time with the product of both lengths


def score(item: RewardInput) -> RewardResult:
    """score = format + caption + box + answer, each in [0, 1]. accuracy: that of the answer, 0 or 1.

    Raises DataError for a row without a caption and boxes, or with a truth that is malformed.
    """
    caption, boxes = facts_of(item)
    form = float(read_blocks(item.response, TAGS) is not None)
    said, shown, answered = (_only(item.response, tag) for tag in TAGS)
    parts = {
        "format": form,
        "caption": 0.0 if said is None else caption_overlap(said, caption),
        "box": 0.0 if shown is None else union_iou(answered_boxes(item, shown, len(boxes)), boxes),
        "answer": 0.0 if answered is None else answer_accuracy(item, answered),
    }
    return RewardResult(sum(parts.values()), parts["answer"], parts)


def caption_overlap(caption: str, reference: str) -> float:
    """The mean of BLEU-4 and the F1 of ROUGE-L over words in small letters, in [0, 1]."""
    ours, true = caption.casefold().split()[:MAX_WORDS], reference.casefold().split()[:MAX_WORDS]
    return (bleu(ours, true, BLEU_ORDER) + rouge_l(ours, true)) / 2


def answered_boxes(item: RewardInput, text: str, true_boxes: int) -> list[Box]:
    """The well-formed boxes of a text, in the frame of the truth; none if it has no list of them."""
    scale_x, scale_y = frame_scale(item)
    try:
        found = read_boxes(parse_response(f"<answer>{text}</answer>"), true_boxes + MAX_EXTRA_BOXES)
    except ValueError:
        return []
    return [
        (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
        for box in found
        if not isinstance(box, str)
    ]


def facts_of(item: RewardInput) -> tuple[str, list[Box]]:
    """The caption and the boxes of a row. Raises DataError."""
    caption, boxes = item.extra_info.get("caption"), item.extra_info.get("boxes")
    if not isinstance(caption, str) or not caption.strip():
        raise DataError(f"extra_info.caption: got {caption!r}; give a text about the image")
    if boxes is None:
        raise DataError("extra_info.boxes: not set; give [[x1, y1, x2, y2], …], or [] where nothing is asked about")
    try:
        text = boxes if isinstance(boxes, str) else str([list(map(float, box)) for box in boxes])
        return caption, [read_box(entry) for entry in box_entries(load_json(text))]
    except (TypeError, ValueError) as error:
        raise DataError(f"extra_info.boxes: {error}; got {str(boxes)[:80]}; give [[x1, y1, x2, y2], …]") from error


def _only(text: str, tag: str) -> str | None:
    found = read_each(text, tag)
    return found[0] if len(found) == 1 else None
