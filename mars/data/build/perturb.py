"""Rows with the same question and changed images (Vision Matters): a distractor beside an image, mixup, or a rotation.

Boxes of the truth are moved with the first image, which is their frame. A rotated box becomes the smallest upright box
around it, which is larger than the object unless the angle is a multiple of 90 degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, radians, sin
from typing import TYPE_CHECKING, Any, Literal

from mars.data.build.moving import BOXES, Box, Move, Size, has_boxes, moved, moved_fields
from mars.data.build.scenes import Made, Picture, Scene, Scenes, check_size, chosen, like, pixels
from mars.data.rows.problems import RowError
from mars.types import Source

if TYPE_CHECKING:
    from numpy.random import Generator
    from PIL import Image

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Perturb:
    """Makes a new row from a row: changed images with the same question, reward and choices. An example response
    stays unless it may name boxes that have moved.

    change: what is done to the chosen images of a row:
        rotation: rotated by the same angle;
        distractor: joined with an image of another row: the same row and the same side for all;
        mixup: mixed with an image of another row: the same row and the same share for all.
    sources: which images are chosen, see `chosen`; the others stay as they are.
    side: of the distractor; "random" is drawn. size: width and height of a mixture in pixels (256 in the paper's
    code); None: the image keeps its size, and the image of the other row is fitted into this size. right_angles: rotate
    only by 90, 180 or 270 degrees.
    """

    change: Literal["distractor", "mixup", "rotation"]
    sources: str
    side: Literal["left", "right", "random"]
    size: int | None
    right_angles: bool
    name: str = "perturb"

    def __call__(self, scene: Scene, scenes: Scenes, chance: Generator) -> Made:
        prompt = scene.readable
        if scene.problem is not None:
            raise RowError(scene.problem.reason, scene.problem.detail)
        changed = chosen(prompt, self.sources, chance)
        moved(prompt, _stay)  # this and the next line refuse a bad row before images are changed
        moved_fields(prompt, _stay)
        change, drawn = self._drawn(scene, changed, scenes, chance)
        pictures, moves = [], {}
        for source in prompt.sources:
            image = pixels(source)
            if source in changed:
                image, moves[source] = change(image, source)
            pictures.append(Picture(source.name, image))
        first, kept = prompt.sources[0], {}
        move = moves.get(first, _stay)
        truth, fields = moved(prompt, move), moved_fields(prompt, move)
        if first not in moves or not (has_boxes(prompt.truth) or fields.keys() & set(BOXES)):
            kept = {"response": prompt.response, "mono_responses": prompt.mono_responses}
        drawn = {"change": self.change, "sources": [source.name for source in changed], **drawn}
        choices = prompt.extra_info.get("choices")
        return Made(prompt.data_source, prompt.messages, pictures, truth, choices, drawn=drawn, fields=fields, **kept)

    def _drawn(
        self, scene: Scene, changed: Sequence[Source], scenes: Scenes, chance: Generator
    ) -> tuple[Callable[[Image.Image, Source], tuple[Image.Image, Move]], dict[str, Any]]:
        """The function that changes an image, and the values that were drawn at random for it."""
        if self.change == "rotation":
            angle = float(chance.choice([90, 180, 270])) if self.right_angles else float(chance.uniform(-180, 180))
            return lambda image, source: rotated(image, angle), {"angle": angle}
        other, others = scenes.other(scene, chance, lambda one: (one, {to: pixels(like(to, one)) for to in changed}))
        if self.change == "mixup":
            share = float(chance.uniform(0.7, 0.9))
            drawn = {"other": other.number, "share": share}
            return lambda image, source: mixed(image, others[source], share, self.size), drawn
        side = self.side if self.side != "random" else ("left", "right")[int(chance.integers(2))]
        drawn = {"other": other.number, "side": side}
        return lambda image, source: beside(image, others[source], left=side == "left"), drawn


def _stay(box: Box) -> Box:
    return box


def beside(image: Image.Image, other: Image.Image, *, left: bool) -> tuple[Image.Image, Move]:
    """The image with another one on its left or right side, scaled to the image's height.

    If the other image would then be wider than the image, it is scaled to the image's width instead, and centred on
    white. Raises RowError if the result is too large.
    """
    from PIL import Image

    width = min(max(round(other.width * image.height / other.height), 1), image.width)
    check_size((image.width + width, image.height), "the image with the other one beside it")
    fitting = fitted(other, (width, image.height))[0]
    both = Image.new("RGB", (image.width + fitting.width, image.height))
    start = fitting.width if left else 0
    both.paste(image, (start, 0))
    both.paste(fitting, (0 if left else image.width, 0))
    return both, lambda box: (box[0] + start, box[1], box[2] + start, box[3])


def mixed(image: Image.Image, other: Image.Image, share: float, size: int | None) -> tuple[Image.Image, Move]:
    """share x image + (1 - share) x other, both fitted into `size` x `size` pixels; None: into the size of `image`."""
    from PIL import Image

    frame = image.size if size is None else (size, size)
    fitting, move = fitted(image, frame)
    return Image.blend(fitted(other, frame)[0], fitting, share), move


def fitted(image: Image.Image, frame: Size) -> tuple[Image.Image, Move]:
    """The image, scaled to fit into a white image of the size `frame` and centred in it."""
    from PIL import Image

    if image.size == frame:
        return image, lambda box: box
    scale = min(frame[0] / image.width, frame[1] / image.height)
    width, height = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    left, top = (frame[0] - width) // 2, (frame[1] - height) // 2
    canvas = Image.new("RGB", frame, WHITE)
    canvas.paste(image.resize((width, height)), (left, top))
    x, y = width / image.width, height / image.height
    return canvas, lambda box: (box[0] * x + left, box[1] * y + top, box[2] * x + left, box[3] * y + top)


def rotated(image: Image.Image, angle: float) -> tuple[Image.Image, Move]:
    """The image rotated counter-clockwise by `angle` degrees, on white, with room for its corners.

    Raises RowError if the result is too large.
    """
    from PIL.Image import Resampling

    (width, height), cosine, sine = image.size, cos(radians(angle)), sin(radians(angle))
    room = abs(width * cosine) + abs(height * sine), abs(width * sine) + abs(height * cosine)
    check_size((round(room[0]), round(room[1])), "the rotated image")
    turned = image.rotate(angle, resample=Resampling.BICUBIC, expand=True, fillcolor=WHITE)
    size = turned.size

    def move(box: Box) -> Box:
        corners = [(x - width / 2, y - height / 2) for x in box[::2] for y in box[1::2]]
        xs = [cosine * x + sine * y + size[0] / 2 for x, y in corners]
        ys = [cosine * y - sine * x + size[1] / 2 for x, y in corners]
        return max(min(xs), 0.0), max(min(ys), 0.0), min(max(xs), float(size[0])), min(max(ys), float(size[1]))

    return turned, move
