"""Jigsaw puzzles (Jigsaw-R1): an image is cut into a grid of pieces, which are shuffled; the task is to put them back.

The pieces are numbered from 1 in the order in which they are shown. The truth is the grid of the original image: at
each place, the number of the shown piece that belongs there. Example:

    original  a b    shown  d a    truth  2 4
              c d           c b           3 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mars.data.build.scenes import Made, Picture, Scene, Scenes, chosen, pixels
from mars.data.rows.problems import RowError
from mars.types import IMAGE_MARKER, Message

if TYPE_CHECKING:
    from numpy.random import Generator
    from PIL import Image

MIN_SIDE = 8  # of a piece, in pixels
WAYS = ("upper left", "above", "upper right", "left", "right", "lower left", "below", "lower right")


@dataclass(frozen=True)
class Jigsaw:
    """swap: whether `rows` and `columns` are exchanged with probability 1/2.

    pieces: whether every piece is an image of its own; if not, one image shows them all. sources: see `chosen`.
    question: "grid" (where every piece belongs) or "pair" (where a piece is relative to another one).
    """

    rows: int
    columns: int
    swap: bool
    pieces: bool
    question: Literal["grid", "pair"]
    sources: str
    name: str = "jigsaw"

    def __call__(self, scene: Scene, scenes: Scenes, chance: Generator) -> Made:
        shown = chosen(scene.readable, self.sources, chance)
        rows, columns = self.rows, self.columns
        if self.swap and chance.random() < 0.5:
            rows, columns = columns, rows
        order = shuffled(rows * columns, chance)
        images = [whole_pieces(pixels(source), rows, columns, source.name) for source in shown]
        refuse_alike(images, rows, columns)
        pictures = [
            picture
            for source, image in zip(shown, images, strict=True)
            for picture in self._pictures(source.name, image, rows, columns, order)
        ]
        drawn = {"rows": rows, "columns": columns, "order": order, "sources": [source.name for source in shown]}
        text = _text(rows, columns, len(shown), self.pieces)
        if self.question == "grid":
            text += (
                " Where does every piece belong? Answer with the numbers of the pieces as they lie in the original "
                f"image: {_count(rows, 'line')} of {_count(columns, 'number')}, separated by spaces."
            )
            truth, choices = grid(order, columns), None
        else:
            first, second = (int(piece) for piece in chance.permutation(rows * columns)[:2])
            drawn |= {"pair": [first + 1, second + 1]}
            text += f" In the original image, where is piece {first + 1}, seen from piece {second + 1}?"
            truth, choices = way(order[first], order[second], columns), WAYS
        messages = [Message("user", f"{IMAGE_MARKER * len(pictures)}\n{text}")]
        return Made(self.name, messages, pictures, truth, choices, drawn=drawn)

    def _pictures(self, name: str, image: Image.Image, rows: int, columns: int, order: Sequence[int]) -> list[Picture]:
        if not self.pieces:
            return [Picture(name, rearranged(image, rows, columns, order))]
        cut = cut_up(image, rows, columns)
        return [Picture(f"piece_{number}", cut[place]) for number, place in enumerate(order, 1)]


def shuffled(count: int, chance: Generator) -> list[int]:
    """A permutation of 0 … count - 1, each with the same probability.

    The identity is one of them. Without it, a puzzle of two pieces would always have the same truth.
    """
    return [int(place) for place in chance.permutation(count)]


def refuse_alike(images: Sequence[Image.Image], rows: int, columns: int) -> None:
    """Raises RowError if two pieces look the same in all images."""
    pieces = [[piece.tobytes() for piece in cut_up(image, rows, columns)] for image in images]
    if len(set(zip(*pieces, strict=True))) < rows * columns:
        raise RowError("alike", "two pieces of the image are the same to the pixel")


def grid(order: Sequence[int], columns: int) -> str:
    """The truth: for each place of the original image, row by row, the number (from 1) of the shown piece that belongs
    there.

    order: for each shown piece, its place in the original image, from 0.

    >>> grid([3, 0, 2, 1], columns=2)
    '2 4\\n3 1'
    """
    numbers = [str(order.index(place) + 1) for place in range(len(order))]
    return "\n".join(" ".join(numbers[start : start + columns]) for start in range(0, len(numbers), columns))


def way(place: int, seen_from: int, columns: int) -> str:
    """Where `place` of the original grid is, seen from another place: one of WAYS.

    >>> way(0, 3, columns=2), way(1, 0, columns=2)
    ('upper left', 'right')
    """
    down, right = place // columns - seen_from // columns, place % columns - seen_from % columns
    sides = {(-1, -1): 0, (-1, 0): 1, (-1, 1): 2, (0, -1): 3, (0, 1): 4, (1, -1): 5, (1, 0): 6, (1, 1): 7}
    return WAYS[sides[(down > 0) - (down < 0), (right > 0) - (right < 0)]]


def whole_pieces(image: Image.Image, rows: int, columns: int, name: str) -> Image.Image:
    """The image, cropped so that all pieces are of one size. Raises RowError if they are too small."""
    width, height = image.width // columns, image.height // rows
    if min(width, height) < MIN_SIDE:
        raise RowError("too_small", f"source {name}: pieces of {width}x{height} pixels; {MIN_SIDE} are needed")
    return image.crop((0, 0, width * columns, height * rows))


def cut_up(image: Image.Image, rows: int, columns: int) -> list[Image.Image]:
    """The pieces of an image, in reading order. Its width must be a multiple of `columns`, its height of `rows`."""
    width, height = image.width // columns, image.height // rows
    corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
    return [image.crop((x, y, x + width, y + height)) for x, y in corners]


def rearranged(image: Image.Image, rows: int, columns: int, order: Sequence[int]) -> Image.Image:
    """The image with piece `order[i]` at place i."""
    pieces, shown = cut_up(image, rows, columns), image.copy()
    width, height = pieces[0].size
    for place, piece in enumerate(order):
        shown.paste(pieces[piece], (place % columns * width, place // columns * height))
    return shown


def _text(rows: int, columns: int, sources: int, pieces: bool) -> str:
    size = f"{_count(rows, 'row')} and {_count(columns, 'column')}"
    count = rows * columns
    if pieces:
        return (
            f"These {count} images are the pieces of one image that was cut into {size}. They are in random order and "
            f"numbered from 1 to {count}."
        )
    start = "The image was" if sources == 1 else "Each of these images was"
    alike = "" if sources == 1 else ", alike in all of them"
    return (
        f"{start} cut into {size}, and the pieces were shuffled{alike}. They are numbered from 1 to {count}, from left "
        "to right and from top to bottom, as they are shown."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
