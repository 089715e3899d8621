"""Small scenes with one person, seen by a visible and an infrared camera that do not always agree.

An image that misleads shows a decoy: an object at another place that looks like the person. Only the background tells
which image to trust: a dark visible image or a warm infrared image misleads. A single image shows the person in 0.6 of
the scenes, so without a look at its background the best guess is to believe it.

    light   share   visible              infrared             truth
    day     0.4     bright, person       warm, decoy          the person
    night   0.4     dark, decoy          cold, person         the person
    both    0.2     bright, person       cold, person         the person
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Light = Literal["day", "night", "both"]
Box = tuple[int, int, int, int]

SIDE = 56  # pixels; a multiple of 28, so that smart_resize leaves the image as it is
CELL = 14  # people stand on a grid of this many pixels
PERSON = (14, 28)  # width and height in pixels
LIGHTS: tuple[Light, ...] = ("day", "night", "both")
SHARES = (0.4, 0.4, 0.2)
NOISE = 4.0  # standard deviation of the pixel noise, in levels of 255
VISIBLE_GROUND = {"day": (105, 115, 100), "night": (15, 15, 25), "both": (105, 115, 100)}
VISIBLE_FIGURE = {"day": (250, 225, 70), "night": (190, 160, 50), "both": (250, 225, 70)}
INFRARED_GROUND = {"day": 115, "night": 30, "both": 30}
INFRARED_FIGURE = {"day": 250, "night": 215, "both": 215}


@dataclass(frozen=True)
class Scene:
    """One scene and its two images.

    box: (x1, y1, x2, y2) of the person, in pixels, 0-based, end exclusive.
    decoy: the box of the decoy in the misleading image; None if both images show the person.
    visible: uint8 [SIDE, SIDE, 3]; infrared: uint8 [SIDE, SIDE].
    """

    light: Light
    box: Box
    decoy: Box | None
    visible: np.ndarray
    infrared: np.ndarray

    def seen_in(self, source: str) -> Box:
        """The box of the figure in `source` ("visible" or "infrared"): the person or the decoy."""
        misleading = {"day": "infrared", "night": "visible", "both": None}[self.light]
        return self.decoy if source == misleading and self.decoy else self.box

    def looks(self, source: str) -> str:
        """The background of a source: "bright" or "dark" (visible), "warm" or "cold" (infrared)."""
        if source == "visible":
            return "dark" if self.light == "night" else "bright"
        return "warm" if self.light == "day" else "cold"


def make_scene(seed: int, index: int) -> Scene:
    """Scene `index` of the set `seed`. The same arguments always give the same pixels.

    The decoy never overlaps the person. Sets of different seeds are independent.
    """
    rng = np.random.default_rng((seed, index))
    light: Light = LIGHTS[rng.choice(len(LIGHTS), p=SHARES)]
    box = _random_box(rng)
    decoy = None
    if light != "both":
        decoy = _random_box(rng)
        while _overlap(box, decoy):
            decoy = _random_box(rng)
    seen_visible = decoy if light == "night" else box
    seen_infrared = decoy if light == "day" else box
    return Scene(
        light=light,
        box=box,
        decoy=decoy,
        visible=_render(rng, VISIBLE_GROUND[light], VISIBLE_FIGURE[light], seen_visible),
        infrared=_render(rng, (INFRARED_GROUND[light],), (INFRARED_FIGURE[light],), seen_infrared)[:, :, 0],
    )


def _random_box(rng: np.random.Generator) -> Box:
    x = CELL * int(rng.integers((SIDE - PERSON[0]) // CELL + 1))
    y = CELL * int(rng.integers((SIDE - PERSON[1]) // CELL + 1))
    return x, y, x + PERSON[0], y + PERSON[1]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _render(rng: np.random.Generator, ground: tuple[int, ...], figure: tuple[int, ...], box: Box) -> np.ndarray:
    """An image uint8 [SIDE, SIDE, channels]: noisy ground, and in `box` a figure of head, body and legs."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    shape = np.zeros((height, width), dtype=bool)
    head = height // 4
    shape[:head, width // 4 : width - width // 4] = True
    shape[head : height - head, :] = True
    shape[height - head :, : width // 3] = True
    shape[height - head :, width - width // 3 :] = True
    image = np.broadcast_to(np.array(ground, dtype=np.float64), (SIDE, SIDE, len(ground))).copy()
    image[y1:y2, x1:x2][shape] = figure
    image += rng.normal(0.0, NOISE, size=(SIDE, SIDE, 1))
    return image.clip(0, 255).astype(np.uint8)
