"""Pictures of sampled rollouts: the images of a prompt side by side, with boxes of the truth and of answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mars.answers.boxes import Box, SourceBoxes, boxes_by_source
from mars.answers.record import Answer, BoxFrames, PromptLength, answers_of, by_question
from mars.errors import MarsError
from mars.output.fonts import drawable, font_file
from mars.output.text import shorten, visible
from mars.types import ImageRef, PromptRollouts, Source

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PICTURES = 8  # of one step, whatever tracking.rollout_prompts is
_SIDE = 340  # pixels, longest side of an image in a picture
_HEADING = 18  # pixels above an image, for the name of its source
_MARGIN = 6
_TEXT_SIZE = 12
_CHARACTERS = 400  # of one text in a caption
_ANSWERS = 6  # in a caption
# Okabe and Ito's palette, as in the run's report, and the width of the lines.
_LINES = {"truth": ("#0072B2", 3), "multi": ("#E69F00", 2), "mono": ("#009E73", 2)}
LEGEND = "blue: truth; orange: answers to all sources; green: answers to this source alone"


@dataclass(frozen=True)
class Picture:
    """tag: "rollouts/prompt_1" for the first prompt of the step. caption: several lines of text."""

    tag: str
    image: Image
    caption: str


@dataclass(frozen=True)
class RolloutPictures:
    """Makes the pictures of a step's sampled rollouts. Called in a tracker's thread, which then reads the images.

    decode: reads and decodes an image. An image that cannot be read becomes grey, and the caption gives the reason.
    """

    frames: BoxFrames
    prompt_length: PromptLength
    decode: Callable[[ImageRef], Image]

    def __call__(self, rollouts: Sequence[PromptRollouts], step: int) -> list[Picture]:
        answers = answers_of(rollouts, step, frames=self.frames, prompt_length=self.prompt_length)
        questions = by_question(answers)[:MAX_PICTURES]
        return [self._picture(f"rollouts/prompt_{number}", own) for number, own in enumerate(questions, 1)]

    def _picture(self, tag: str, answers: Sequence[Answer]) -> Picture:
        from PIL import Image

        sources, boxes, problems, tiles = answers[0].sources, boxes_by_source(answers), [], []
        for source in sources:
            try:
                image = self.decode(source.image).convert("RGB")
                image.thumbnail((_SIDE, _SIDE))
            except (MarsError, OSError, ValueError) as error:
                problems.append(f"{source.name}: {error}")
                image = Image.new("RGB", _thumbnail_size(source.image.size), "#999999")
            tiles.append(_tile(source, image, boxes[source.name]))
        width = max(sum(tile.width + _MARGIN for tile in tiles) - _MARGIN, 1)
        whole = Image.new("RGB", (width, max((tile.height for tile in tiles), default=1)), "white")
        left = 0
        for tile in tiles:
            whole.paste(tile, (left, 0))
            left += tile.width + _MARGIN
        return Picture(tag, whole, _caption(answers, problems))


def _thumbnail_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, _SIDE / max(size))
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def _tile(source: Source, image: Image, boxes: SourceBoxes) -> Image:
    """The image of a source with its boxes, below the source's name."""
    from PIL import Image, ImageDraw, ImageFont

    draw = ImageDraw.Draw(image)
    # The truth is drawn last, so that the boxes of many answers do not hide it.
    for kind, listed in (("mono", boxes.mono), ("multi", boxes.multi), ("truth", boxes.truth)):
        colour, line = _LINES[kind]
        for box in listed:
            draw.rectangle(_pixels(box, image.size), outline=colour, width=line)
    name = drawable(shorten(source.name, 40))
    font = ImageFont.truetype(font_file(name), _TEXT_SIZE)
    tile = Image.new("RGB", (max(image.width, 1 + int(font.getlength(name))), image.height + _HEADING), "white")
    ImageDraw.Draw(tile).text((1, 1), name, fill="black", font=font)
    tile.paste(image, (0, _HEADING))
    return tile


def _pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel that a box covers, in both directions.

    >>> _pixels((0.1, 0.2, 0.5, 1.0), (100, 50))
    (10, 10, 49, 49)
    """
    (x1, y1, x2, y2), (width, height) = box, size
    left, top = min(int(x1 * width), width - 1), min(int(y1 * height), height - 1)
    return left, top, max(round(x2 * width) - 1, left), max(round(y2 * height) - 1, top)


def _caption(answers: Sequence[Answer], problems: Sequence[str]) -> str:
    first = answers[0]
    lines = [f"{first.data_source} · {first.row} · {first.prompt_id}"]
    lines += [f"{message.role}: {message.text}" for message in first.question]
    lines += [f"truth: {first.truth}"]
    for answer in answers[:_ANSWERS]:
        score = "" if answer.reward is None else f", score {answer.reward.score:.3g}"
        lines.append(f"{answer.label} {answer.sample}{score}: {answer.text}")
    if len(answers) > _ANSWERS:
        lines.append(f"{len(answers) - _ANSWERS} more answers are in the run's rollout file")
    lines += [f"not read: {problem}" for problem in problems]
    return "\n".join([*(visible(shorten(line.replace("\n", " "), _CHARACTERS)) for line in lines), LEGEND])
