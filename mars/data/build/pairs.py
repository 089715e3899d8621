"""Questions about pairs of images (SSL4RL): angle of a rotation, place of a part, whether both show one scene."""

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
EPSILON = 1e-9  # shares are floats: their products may be a little too large or small
SMALLEST, LARGEST = 0.6, 0.9  # sides of the parts that view_of cuts out, as shares of the image's shorter side
Part = tuple[float, float, float, float]


@dataclass(frozen=True)
class Rotation:
    """By which angle, counter-clockwise in steps of 90 degrees, was the second image rotated? sources: see `pairs`.

    The second image is only the square in the middle, because the shape of a whole image would tell 90 and 270 from 0
    and 180.
    """

    sources: str
    name: str = "rotation"

    def __call__(self, scene: Scene, scenes: Scenes, chance: Generator) -> Made:
        shown = pairs(scene.readable, self.sources, chance)
        angle = ANGLES[int(chance.integers(len(ANGLES)))]
        squares = [middle(pixels(other)) for _, other in shown]
        if all(square.tobytes() == turned(square, 180).tobytes() for square in squares):
            raise RowError("alike", "the image looks the same when it is rotated by 180 degrees")
        pictures = [
            picture
            for (one, other), square in zip(shown, squares, strict=True)
            for picture in (Picture(one.name, pixels(one)), Picture(f"{other.name}_rotated", turned(square, angle)))
        ]
        if len(shown) > 1:
            start = (
                "Every second image is the middle of the image before it, rotated. All were rotated by the same angle."
            )
        elif self.sources == CROSS:
            start = (
                "The second image is the middle of the scene that the first one shows, taken by another sensor and "
                "rotated."
            )
        else:
            start = "The second image is the middle of the first one, rotated."
        question = f"{start} By how many degrees was it rotated counter-clockwise: 0, 90, 180 or 270?"
        return _made(self.name, question, pictures, str(angle), None, {"angle": angle, **_names(shown)})


@dataclass(frozen=True)
class Position:
    """The second image is a part of the first one: in which quarter of the first image is it?

    The part is inside the quarter. Its sides are 20 to 80 % of the quarter's, but at least MIN_SIDE. sources: see
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
        pictures, boxes, alike = [], [], []
        for one, other in shown:
            image = pixels(other)
            boxes.append(part_of(image.size, part, other.name))
            pictures += [Picture(one.name, pixels(one)), Picture(f"{other.name}_part", image.crop(boxes[-1]))]
            alike.append(is_elsewhere(image, boxes[-1]))
        if all(alike):
            raise RowError("alike", "the part has one colour, or is in several quarters")
        if len(shown) > 1:
            start = "Every second image is a part of the image before it, the same part in all of them."
        elif self.sources == CROSS:
            start = "The second image is a part of the scene that the first one shows, taken by another sensor."
        else:
            start = "The second image is a part of the first one."
        question = f"{start} In which quarter of the whole image is the part?"
        return _made(self.name, question, pictures, QUARTERS[quarter], QUARTERS, {"boxes": boxes, **_names(shown)})

    def _share(self, side: int, chance: Generator) -> float:
        """Draw the side of a part, as a share of the quarter's side. side: of the image, in pixels.

        Raises RowError if even the largest part would have fewer than MIN_SIDE + 2 pixels: the part loses up to a pixel
        at each end when it is cut in whole pixels.
        """
        smallest = max(self.smallest, 2 * (MIN_SIDE + 2) / side)
        if smallest > self.largest:
            raise RowError("too_small", f"80 % of a quarter must be {MIN_SIDE + 2} pixels; the image has {side}")
        return smallest + (self.largest - smallest) * float(chance.random())


@dataclass(frozen=True)
class Contrastive:
    """Do two changed images show the same scene? Yes and no with the same probability.

    Each is a square part, see `view_of`, mirrored or not, with other brightness and contrast. For the
    answer "no", the second image is from another row. Both images are scaled to one size. For "yes" too, it depends on
    this row and on another row, so that it does not tell the answer.
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
        own, image = _side_of(first), pixels(first)
        drawn = scenes.other(scene, chance, lambda other: _Partner.of(other, second))
        same, side = bool(chance.random() < 0.5), min(own, drawn.side)
        other, second = (scene, second) if same else (drawn.scene, drawn.source)
        starts = [float(chance.random())] * 2 if same else [float(start) for start in chance.random(2)]
        views = [image, pixels(second) if same else drawn.image]
        pictures = [
            Picture(name, recoloured(view_of(whole, start, side, chance), chance))
            for name, whole, start in zip(("first", "second"), views, starts, strict=True)
        ]
        question = (
            "Both images were cropped, and their colours were changed; they may be mirrored. Do they show the same "
            "scene?"
        )
        facts = {"other": other.number, "size_from": drawn.scene.number, "sources": [first.name, second.name]}
        return _made(self.name, question, pictures, "yes" if same else "no", None, facts)


@dataclass(frozen=True)
class _Partner:
    """Another scene, and its image that may be shown. side: see `_side_of`."""

    scene: Scene
    source: Source
    image: Image.Image
    side: int

    @classmethod
    def of(cls, scene: Scene, second: Source) -> _Partner:
        """The scene with its image whose source has the same name as `second`.

        An image of another source would give away the answer "no" by the kind of sensor alone.

        Raises RowError if there is no such image, or if it is too small or cannot be read.
        """
        source = next((source for source in scene.readable.sources if source.name == second.name), None)
        if source is None:
            raise RowError("sources", f"the row has no source {second.name!r}")
        side = _side_of(source)
        return cls(scene, source, pixels(source), side)


def _side_of(source: Source) -> int:
    """The side in pixels of the smallest part that `view_of` may cut out. Scaled to this side, no part is enlarged.

    Raises RowError if this side is too small.
    """
    side = floor(SMALLEST * min(source.image.size))
    if side < MIN_SIDE:
        raise RowError("too_small", f"source {source.name}: a part of {side}x{side} pixels; {MIN_SIDE} are needed")
    return side


def turned(image: Image.Image, angle: int) -> Image.Image:
    """The image rotated counter-clockwise by a multiple of 90 degrees."""
    from PIL.Image import Transpose

    turns = {90: Transpose.ROTATE_90, 180: Transpose.ROTATE_180, 270: Transpose.ROTATE_270}
    return image.transpose(turns[angle]) if angle else image


def part_of(size: tuple[int, int], part: Part, name: str) -> tuple[int, int, int, int]:
    """The largest box (left, top, right, bottom) in whole pixels that lies inside a part of an image.

    size: width and height of the image. part: left, top, width and height as shares of the image. name: the source, for
    messages. Raises RowError if the box is too small.

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


def middle(image: Image.Image) -> Image.Image:
    """The largest square in the middle of an image."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def is_elsewhere(image: Image.Image, box: tuple[int, int, int, int]) -> bool:
    """Whether the pixels in `box` all have one colour, or equal those at the same place of another quarter."""
    part = image.crop(box)
    if part.getcolors(1) is not None:
        return True
    across = image.width // 2 if box[0] < image.width // 2 else -(image.width // 2)
    down = image.height // 2 if box[1] < image.height // 2 else -(image.height // 2)
    moves = (across, 0), (0, down), (across, down)
    others = ((box[0] + x, box[1] + y, box[2] + x, box[3] + y) for x, y in moves)
    return any(image.crop(other).tobytes() == part.tobytes() for other in others)


def view_of(image: Image.Image, start: float, side: int, chance: Generator) -> Image.Image:
    """A square part of an image, scaled to `side` x `side` pixels.

    The part is inside a square of the image whose side is the image's shorter side. The part's side is 60 to 90 % of
    that side, so that two parts of one square overlap. start: where the square is, from 0 (left or top) to 1 (right or
    bottom).
    """
    short = min(image.size)
    size = round((SMALLEST + (LARGEST - SMALLEST) * float(chance.random())) * short)
    left, top = (
        round(start * (whole - short)) + floor((short - size + 1) * float(chance.random())) for whole in image.size
    )
    return image.crop((left, top, left + size, top + size)).resize((side, side))


def recoloured(image: Image.Image, chance: Generator) -> Image.Image:
    """The image mirrored with probability 1/2, with other brightness and contrast."""
    from PIL import ImageEnhance, ImageOps

    changed = ImageOps.mirror(image) if chance.random() < 0.5 else image
    changed = ImageEnhance.Brightness(changed).enhance(0.6 + 0.8 * chance.random())
    return ImageEnhance.Contrast(changed).enhance(0.6 + 0.8 * chance.random())


def _names(shown: Sequence[tuple[Source, Source]]) -> dict[str, list[list[str]]]:
    return {"sources": [[one.name, other.name] for one, other in shown]}


def _made(
    name: str, question: str, pictures: Sequence[Picture], truth: str, choices: Sequence[str] | None, drawn: dict
) -> Made:
    messages = [Message("user", f"{IMAGE_MARKER * len(pictures)}\n{question}")]
    return Made(name, messages, pictures, truth, choices, drawn=drawn)
