"""Rows with changed images and the same question (Vision Matters): a distractor beside it, a mixture, a rotation.

Boxes of the truth are moved with the first image, since their frame is the first image. A rotated box becomes the
smallest upright box around it, which is larger than the object unless the angle is a multiple of 90 degrees.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, cos, floor, radians, sin
from typing import TYPE_CHECKING, Any, Literal

from mars.data.build.scenes import Made, Picture, Scene, Scenes, chosen, pixels
from mars.data.rows.problems import RowError
from mars.types import Source

if TYPE_CHECKING:
    from numpy.random import Generator
    from PIL import Image

Box = tuple[float, float, float, float]
Size = tuple[int, int]
Move = Callable[[Box], Box]
"""A box in the pixels of the image -> the same box in those of the changed image."""

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Perturb:
    """change: what is done to the images of a row. sources: which of them, see `chosen`; the others stay as they are.

    All of them are changed alike: by one angle, or with the images of one other row, on one side or in one share.
    side: of the distractor; "random" is drawn. size: sides of a mixture in pixels (256 in the paper's code); None: the
    image keeps its size and the other one is fitted into it. right_angles: rotations by 90, 180 or 270 degrees alone.
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
        change, drawn = self._drawn(scene, scenes, chance)
        pictures, moves = [], {}
        for source in prompt.sources:
            image = pixels(source)
            if source in changed:
                image, moves[source] = change(image, source)
            pictures.append(Picture(source.name, image))
        first = prompt.sources[0]
        in_thousandths = prompt.extra_info.get("box_space") == "norm_1000"
        scale = (first.image.size[0] / 1000, first.image.size[1] / 1000) if in_thousandths else (1.0, 1.0)
        truth = moved(prompt.truth, moves.get(first, lambda box: box), scale)
        drawn = {"change": self.change, "sources": [source.name for source in changed], **drawn}
        choices = prompt.extra_info.get("choices")
        return Made(prompt.data_source, prompt.messages, pictures, truth, choices, drawn=drawn)

    def _drawn(
        self, scene: Scene, scenes: Scenes, chance: Generator
    ) -> tuple[Callable[[Image.Image, Source], tuple[Image.Image, Move]], dict[str, Any]]:
        """The change, and what was drawn for it."""
        if self.change == "rotation":
            angle = float(chance.choice([90, 180, 270])) if self.right_angles else float(chance.uniform(-180, 180))
            return lambda image, source: rotated(image, angle), {"angle": angle}
        other = scenes.other(scene, chance)

        def like(source: Source) -> Image.Image:
            others = other.readable.sources
            return pixels(next((one for one in others if one.name == source.name), others[0]))

        if self.change == "mixup":
            share = float(chance.uniform(0.7, 0.9))
            drawn = {"other": other.number, "share": share}
            return lambda image, source: mixed(image, like(source), share, self.size), drawn
        side = self.side if self.side != "random" else ("left", "right")[int(chance.integers(2))]
        drawn = {"other": other.number, "side": side}
        return lambda image, source: beside(image, like(source), left=side == "left"), drawn


def beside(image: Image.Image, other: Image.Image, *, left: bool) -> tuple[Image.Image, Move]:
    """The image with another one on its left or right side, scaled to the image's height."""
    from PIL import Image

    fitting = other.resize((max(round(other.width * image.height / other.height), 1), image.height))
    both = Image.new("RGB", (image.width + fitting.width, image.height))
    start = fitting.width if left else 0
    both.paste(image, (start, 0))
    both.paste(fitting, (0 if left else image.width, 0))
    return both, lambda box: (box[0] + start, box[1], box[2] + start, box[3])


def mixed(image: Image.Image, other: Image.Image, share: float, size: int | None) -> tuple[Image.Image, Move]:
    """share x image + (1 - share) x other, both fitted into a square of `size` pixels, or into the image's size."""
    from PIL import Image

    frame = image.size if size is None else (size, size)
    fitting, move = fitted(image, frame)
    return Image.blend(fitted(other, frame)[0], fitting, share), move


def fitted(image: Image.Image, frame: Size) -> tuple[Image.Image, Move]:
    """The image scaled to fit into the frame, in its middle, on white."""
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
    """The image rotated counter-clockwise by `angle` degrees, on white, with room for its corners."""
    from PIL.Image import Resampling

    turned = image.rotate(angle, resample=Resampling.BICUBIC, expand=True, fillcolor=WHITE)
    (width, height), size = image.size, turned.size
    cosine, sine = cos(radians(angle)), sin(radians(angle))

    def move(box: Box) -> Box:
        corners = [(x - width / 2, y - height / 2) for x in box[::2] for y in box[1::2]]
        xs = [cosine * x + sine * y + size[0] / 2 for x, y in corners]
        ys = [cosine * y - sine * x + size[1] / 2 for x, y in corners]
        return max(min(xs), 0.0), max(min(ys), 0.0), min(max(xs), float(size[0])), min(max(ys), float(size[1]))

    return turned, move


def moved(truth: str, move: Move, scale: tuple[float, float]) -> str:
    """A truth with its boxes moved; one without boxes as it is. scale: from the truth's frame to pixels.

    Boxes become pixels of the changed image, with two decimals, or whole ones. Raises RowError for a box that is not
    four numbers.

    >>> moved('[{"bbox_2d": [1, 2, 3, 4], "label": "car"}]', lambda box: tuple(2 * side for side in box), (1.0, 1.0))
    '[{"bbox_2d": [2, 4, 6, 8], "label": "car"}]'
    >>> moved("a red car", lambda box: box, (1.0, 1.0))
    'a red car'
    """
    if not truth.lstrip().startswith(("[", "{")):
        return truth
    try:
        entries = json.loads(truth)
    except (ValueError, RecursionError) as error:
        raise RowError("truth", f"the truth starts like boxes, but cannot be read: {error}") from error
    single = isinstance(entries, dict)
    found = [_moved_entry(entry, move, scale) for entry in ([entries] if single else entries)]
    return json.dumps(found[0] if single else found, ensure_ascii=False)


def _moved_entry(entry: Any, move: Move, scale: tuple[float, float]) -> Any:
    if isinstance(entry, dict) and "bbox_2d" in entry:
        return {**entry, "bbox_2d": _moved_entry(entry["bbox_2d"], move, scale)}
    numbers = isinstance(entry, list) and all(type(number) in (int, float) for number in entry)
    if not numbers or len(entry) != 4:
        raise RowError("truth", f"a box is four numbers, or has them as bbox_2d; got {entry!r:.80}")
    box = move((entry[0] * scale[0], entry[1] * scale[1], entry[2] * scale[0], entry[3] * scale[1]))
    return [_short(number) for number in box]


def _short(number: float) -> int | float:
    rounded = round(number, 2)
    return int(rounded) if rounded == floor(rounded) == ceil(rounded) else rounded
