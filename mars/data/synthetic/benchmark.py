"""Scenes of the benchmark: three tasks, and two images of which one often misleads.

An image that misleads shows a decoy, another scene with another answer, and is noisier. Only brightness and noise of
the ground tell which image to trust.

    light   share   visible               infrared              truth is what is seen in
    day     0.4     bright, the scene     warm, a decoy         visible
    night   0.4     dark, a decoy         cold, the scene       infrared
    both    0.2     bright, the scene     cold, the scene       both

    task    scene                                        answer
    where   one figure in a cell of a 4 x 4 grid         the cell's number, row by row from 1 to 16
    count   one to four figures in different cells       their number
    box     one filled box, its edges in eighths         "left top right bottom" in eighths, from 0 to 8
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mars.data.synthetic.scenes import (
    INFRARED_FIGURE,
    INFRARED_GROUND,
    LIGHTS,
    SHARES,
    SIDE,
    VISIBLE_FIGURE,
    VISIBLE_GROUND,
    Light,
)

Task = Literal["where", "count", "box"]
Part = Literal["train", "test", "cold_start"]

TASKS: tuple[Task, ...] = get_args(Task)
PARTS: tuple[Part, ...] = get_args(Part)
SOURCES = ("visible", "infrared")
MISLEADING = {"day": "infrared", "night": "visible", "both": None}

QUESTIONS: Mapping[Task, str] = {
    "where": "In which cell of the four by four grid is the figure? Number the cells row by row, starting at one.",
    "count": "How many figures are there?",
    "box": "Where is the box? Give its left, top, right and bottom edges in eighths of the image.",
}

GRID = 4  # cells along a side
CELL = SIDE // GRID  # pixels; also the side of a patch of Qwen2.5-VL
MARGIN = 2  # pixels between a figure and the edge of its cell
MOST_FIGURES = 4
BINS = 8  # bins along a side; a box's edges lie on their borders, 0 to 8
BIN = SIDE // BINS  # pixels
SMALLEST, LARGEST = 2, 6  # sides of a box in bins
RIGHT_IOU = 0.5  # a box is right from this IoU on
NOISE = {True: 8.0, False: 4.0}  # whether an image misleads -> standard deviation of its noise, of 255 levels

_EDGES = [(low, high) for high in range(BINS + 1) for low in range(high)]
# Every box with edges in eighths: int64 [1296, 4], left, top, right, bottom.
_BOXES = np.array([(left, top, right, bottom) for left, right in _EDGES for top, bottom in _EDGES])

# A thing to draw: the answer, and the pixels of the figures as a mask bool [SIDE, SIDE].
_Drawing = tuple[str, np.ndarray]


@dataclass(frozen=True)
class Item:
    """A question about one scene and its two images.

    decoy: the answer that the decoy shows; None if both images show the scene.
    visible: uint8 [SIDE, SIDE, 3]; infrared: uint8 [SIDE, SIDE].
    """

    task: Task
    light: Light
    answer: str
    decoy: str | None
    visible: np.ndarray
    infrared: np.ndarray

    def seen_in(self, source: str) -> str:
        """The answer that is right for the image of `source` alone."""
        return self.decoy if self.decoy is not None and source == MISLEADING[self.light] else self.answer


def make_item(seed: int, part: Part, index: int, tasks: tuple[Task, ...] = TASKS) -> Item:
    """Item number `index` in `part` of the set made from `seed`. Its task is drawn from `tasks`, each equally likely.

    The same arguments give the same pixels. Items of different seeds, parts or indices are independent.
    """
    rng = np.random.default_rng((seed, PARTS.index(part), index))
    task = tasks[int(rng.integers(len(tasks)))]
    light: Light = LIGHTS[int(rng.choice(len(LIGHTS), p=SHARES))]
    scene, decoy = _two_drawings(rng, task)
    if light == "both":
        decoy = scene
    seen = {source: decoy if source == MISLEADING[light] else scene for source in SOURCES}
    noise = {source: NOISE[source == MISLEADING[light]] for source in SOURCES}
    visible = _render(rng, VISIBLE_GROUND[light], VISIBLE_FIGURE[light], seen["visible"][1], noise["visible"])
    ground, figure = (INFRARED_GROUND[light],), (INFRARED_FIGURE[light],)
    infrared = _render(rng, ground, figure, seen["infrared"][1], noise["infrared"])[:, :, 0]
    return Item(task, light, scene[0], None if light == "both" else decoy[0], visible, infrared)


def box_iou(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """IoU of two boxes (left, top, right, bottom), each with left < right and top < bottom.

    >>> box_iou((0, 0, 2, 2), (1, 0, 3, 2))  # 2 of 6
    0.3333333333333333
    """
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / (_area(one) + _area(other) - shared)


def _area(box: tuple[int, ...]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _two_drawings(rng: np.random.Generator, task: Task) -> tuple[_Drawing, _Drawing]:
    """Two scenes such that no answer is right for both.

    Until that holds, both are drawn again, so that both have the same distribution.
    """
    while True:
        one, other = _DRAW[task](rng), _DRAW[task](rng)
        if not (right_for_both(one[0], other[0]) if task == "box" else one[0] == other[0]):
            return one, other


def right_for_both(one: str, other: str) -> bool:
    """Whether some box has an IoU of RIGHT_IOU or more with each of two boxes.

    All edges are whole eighths of the image's side, written as numbers from 0 to 8.

    >>> right_for_both("0 0 2 2", "0 2 2 4")  # "0 0 2 4" contains both, and each is half of it
    True
    >>> right_for_both("0 0 2 2", "0 3 2 5")
    False
    """
    good = np.ones(len(_BOXES), dtype=bool)
    for text in (one, other):
        box = np.array([int(edge) for edge in text.split()])
        shared = np.minimum(_BOXES[:, 2:], box[2:]) - np.maximum(_BOXES[:, :2], box[:2])
        shared = shared.clip(0).prod(axis=1)
        total = (_BOXES[:, 2:] - _BOXES[:, :2]).prod(axis=1) + _area(tuple(box)) - shared
        good &= shared >= RIGHT_IOU * total
    return bool(good.any())


def _draw_where(rng: np.random.Generator) -> _Drawing:
    cell = int(rng.integers(GRID**2))
    return str(cell + 1), _figures([cell])


def _draw_count(rng: np.random.Generator) -> _Drawing:
    number = int(rng.integers(1, MOST_FIGURES + 1))
    return str(number), _figures(rng.permutation(GRID**2)[:number].tolist())


def _draw_box(rng: np.random.Generator) -> _Drawing:
    width, height = (int(side) for side in rng.integers(SMALLEST, LARGEST + 1, size=2))
    left, top = int(rng.integers(BINS - width + 1)), int(rng.integers(BINS - height + 1))
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[BIN * top : BIN * (top + height), BIN * left : BIN * (left + width)] = True
    return f"{left} {top} {left + width} {top + height}", mask


_DRAW: Mapping[Task, Callable[[np.random.Generator], _Drawing]] = {
    "where": _draw_where,
    "count": _draw_count,
    "box": _draw_box,
}


def _figures(cells: list[int]) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    for cell in cells:
        y, x = (CELL * place + MARGIN for place in divmod(cell, GRID))
        side = CELL - 2 * MARGIN
        mask[y : y + side, x : x + side] = True
    return mask


def _render(
    rng: np.random.Generator, ground: tuple[int, ...], figure: tuple[int, ...], mask: np.ndarray, noise: float
) -> np.ndarray:
    """An image uint8 [SIDE, SIDE, channels]: noisy ground, with the figure's colour where `mask` is true."""
    image = np.where(mask[:, :, None], np.array(figure, dtype=np.float64), np.array(ground, dtype=np.float64))
    image += rng.normal(0.0, noise, size=(SIDE, SIDE, 1))
    return image.clip(0, 255).astype(np.uint8)
