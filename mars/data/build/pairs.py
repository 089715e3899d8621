"""Questions about an image and a changed one (SSL4RL): the angle, the place of a part, whether two show one scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING

from mars.data.build.jigsaw import MIN_SIDE
from mars.data.build.scenes import CROSS, Made, Picture, Scene, Scenes, chosen, pairs, pixels
from mars.data.rows.problems import RowError
from mars.types import IMAGE_MARKER, Message, Source

if TYPE_CHECKING:
    from numpy.random import Generator
    from PIL import Image

QUARTERS = ("upper left", "upper right", "lower left", "lower right")
ANGLES = (0, 90, 180, 270)
EPSILON = 1e-9  # shares are not exact
Part = tuple[float, float, float, float]


@dataclass(frozen=True)
class Rotation:
    """By which angle was the second image rotated? Counter-clockwise, in steps of 90 degrees. sources: see `pairs`."""

    sources: str
    name: str = "rotation"

    def __call__(self, scene: Scene, scenes: Scenes, chance: Generator) -> Made:
        shown = pairs(scene.readable, self.sources, chance)
        angle = ANGLES[int(chance.integers(len(ANGLES)))]
        pictures = [
            picture
            for one, other in shown
            for picture in (
                Picture(one.name, pixels(one)),
                Picture(f"{other.name}_rotated", turned(pixels(other), angle)),
            )
        ]
        if len(shown) > 1:
            start = "Every second image is the image before it, rotated. All were rotated by the same angle."
        elif self.sources == CROSS:
            start = "The second image shows the same scene as the first one, taken by another sensor, and was rotated."
        else:
            start = "The second image is the first one, rotated."
        question = f"{start} By how many degrees was it rotated counter-clockwise: 0, 90, 180 or 270?"
        return _made(self.name, question, pictures, str(angle), None, {"angle": angle, **_names(shown)})


@dataclass(frozen=True)
class Position:
    """In which quarter of the first image is the second one, a part of it?

    The part is inside the quarter, and its sides are 20 to 80 % of the quarter's, but MIN_SIDE at least. sources: see
    `pairs`.
    """

    sources: str
    smallest: float = 0.2
    largest: float = 0.8
    name: str = "position"

    def __call__(self, scene: Scene, scenes: Scenes, chance: Generator) -> Made:
        shown = pairs(scene.readable, self.sources, chance)
        quarter = int(chance.integers(len(QUARTERS)))
        width, height = (self._share(min(other.image.size[axis] for _, other in shown), chance) for axis in range(2))
        left, top = (float(chance.random()) for _ in "xy")
        part = (quarter % 2 + left * (1 - width)) / 2, (quarter // 2 + top * (1 - height)) / 2, width / 2, height / 2
        pictures, boxes = [], []
        for one, other in shown:
            image = pixels(other)
            boxes.append(part_of(image.size, part, other.name))
            pictures += [Picture(one.name, pixels(one)), Picture(f"{other.name}_part", image.crop(boxes[-1]))]
        if len(shown) > 1:
            start = "Every second image is a part of the image before it, the same part in all of them."
        elif self.sources == CROSS:
            start = "The second image is a part of the scene that the first one shows, taken by another sensor."
        else:
            start = "The second image is a part of the first one."
        question = f"{start} In which quarter of the whole image is the part?"
        return _made(self.name, question, pictures, QUARTERS[quarter], QUARTERS, {"boxes": boxes, **_names(shown)})

    def _share(self, side: int, chance: Generator) -> float:
        """The side of a part as a share of the quarter's, in an image of this side. Raises RowError if it is too small.

        The part loses up to a pixel at each end when it is cut in whole pixels.
        """
        smallest = max(self.smallest, 2 * (MIN_SIDE + 2) / side)
        if smallest > self.largest:
            raise RowError("too_small", f"80 % of a quarter must be {MIN_SIDE + 2} pixels; the image has {side}")
        return smallest + (self.largest - smallest) * float(chance.random())


@dataclass(frozen=True)
class Contrastive:
    """Do two changed images show the same scene? Yes and no with the same probability.

    Each is a part (60 to 90 % of the sides), mirrored or not, with other brightness and contrast.
    sources: see `chosen`; "cross": the second image is of another source than the first.
    """

    sources: str
    name: str = "contrastive"

    def __call__(self, scene: Scene, scenes: Scenes, chance: Generator) -> Made:
        prompt = scene.readable
        if self.sources == CROSS:
            ((first, second),) = pairs(prompt, CROSS, chance)
        else:
            (first,) = chosen(prompt, self.sources, chance)
            second = first
        same = bool(chance.random() < 0.5)
        other = scene if same else scenes.other(scene, chance)
        if not same:
            second = _like(second, other.readable.sources)
        pictures = [
            Picture(name, augmented(pixels(source), source.name, chance))
            for name, source in (("first", first), ("second", second))
        ]
        question = (
            "Both images were cropped, and their colours were changed; they may be mirrored. Do they show the same "
            "scene?"
        )
        drawn = {"other": other.number, "sources": [first.name, second.name]}
        return _made(self.name, question, pictures, "yes" if same else "no", None, drawn)


def turned(image: Image.Image, angle: int) -> Image.Image:
    """The image rotated counter-clockwise by a multiple of 90 degrees; every pixel is kept."""
    from PIL.Image import Transpose

    turns = {90: Transpose.ROTATE_90, 180: Transpose.ROTATE_180, 270: Transpose.ROTATE_270}
    return image.transpose(turns[angle]) if angle else image


def part_of(size: tuple[int, int], part: Part, name: str) -> tuple[int, int, int, int]:
    """The box of a part in whole pixels, inside the part. part: left, top, width and height as shares of the image.

    Raises RowError if it is too small.

    >>> part_of((100, 40), (0.5, 0.0, 0.25, 0.5), "image")
    (50, 0, 75, 20)
    """
    left, top = ceil(size[0] * part[0] - EPSILON), ceil(size[1] * part[1] - EPSILON)
    right, bottom = floor(size[0] * (part[0] + part[2]) + EPSILON), floor(size[1] * (part[1] + part[3]) + EPSILON)
    if min(right - left, bottom - top) < MIN_SIDE:
        raise RowError(
            "too_small", f"source {name}: a part of {right - left}x{bottom - top} pixels; {MIN_SIDE} are needed"
        )
    return left, top, right, bottom


def augmented(image: Image.Image, name: str, chance: Generator) -> Image.Image:
    """A part of an image, mirrored with probability 1/2, with other brightness and contrast. Raises RowError."""
    from PIL import ImageEnhance, ImageOps

    share = 0.6 + 0.3 * float(chance.random())
    left, top = ((1 - share) * float(chance.random()) for _ in "xy")
    part = image.crop(part_of(image.size, (left, top, share, share), name))
    if chance.random() < 0.5:
        part = ImageOps.mirror(part)
    part = ImageEnhance.Brightness(part).enhance(0.6 + 0.8 * chance.random())
    return ImageEnhance.Contrast(part).enhance(0.6 + 0.8 * chance.random())


def _like(source: Source, others: Sequence[Source]) -> Source:
    """The source of this name in another row, or its first one."""
    return next((other for other in others if other.name == source.name), others[0])


def _names(shown: Sequence[tuple[Source, Source]]) -> dict[str, list[list[str]]]:
    return {"sources": [[one.name, other.name] for one, other in shown]}


def _made(
    name: str, question: str, pictures: Sequence[Picture], truth: str, choices: Sequence[str] | None, drawn: dict
) -> Made:
    messages = [Message("user", f"{IMAGE_MARKER * len(pictures)}\n{question}")]
    return Made(name, messages, pictures, truth, choices, drawn=drawn)
