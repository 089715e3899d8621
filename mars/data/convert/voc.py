"""Pascal VOC annotations: XML with integer pixel boxes, counted from 1, end inclusive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.data.rows.problems import RowError
from mars.output.files import check_regular

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Annotation:
    """The values of an annotation file; boxes as they are written there (see `pixel_box`).

    size: (width, height), rounded; None if missing, empty or not above 0. objects: (label, (xmin, ymin, xmax, ymax)).
    """

    size: tuple[int, int] | None
    objects: tuple[tuple[str, Box], ...]


def read_annotation(path: Path) -> Annotation:
    """Read a VOC file. Raises RowError ("annotation") for bad XML, entities, and values that are not finite numbers."""
    from defusedxml import ElementTree

    try:
        check_regular(path)
        root = ElementTree.parse(path).getroot()
    except (OSError, SyntaxError, ValueError, LookupError) as error:
        raise RowError("annotation", f"{path}: cannot be read as XML: {error}") from error
    if root.tag != "annotation":
        raise RowError("annotation", f"{path}: the root must be <annotation>; got <{root.tag!s:.80}>")
    size = None
    if all((root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")):
        width, height = (_number(root, f"size/{side}", path) for side in ("width", "height"))
        size = (round(width), round(height)) if width > 0 and height > 0 else None
    objects = []
    for element in root.findall("object"):
        xmin, ymin, xmax, ymax = (_number(element, f"bndbox/{side}", path) for side in ("xmin", "ymin", "xmax", "ymax"))
        objects.append(((element.findtext("name") or "").strip(), (xmin, ymin, xmax, ymax)))
    return Annotation(size, tuple(objects))


def pixel_box(box: Box, size: tuple[int, int]) -> tuple[list[float], bool]:
    """A VOC box as [x1, y1, x2, y2] in pixels from 0, end exclusive, and whether it had to be clipped to the image.

    VOC's pixel xmin spans [xmin - 1, xmin], so (1, 1, 1280, 1024) is the whole of a 1280x1024 image:
    [0, 0, 1280, 1024]. Raises RowError ("box") for inverted boxes and boxes wholly outside.
    """
    xmin, ymin, xmax, ymax = box
    if xmin > xmax or ymin > ymax:
        raise RowError("box", f"inverted box {list(box)}")
    width, height = size
    whole = (xmin - 1, ymin - 1, xmax, ymax)
    inside = (max(whole[0], 0), max(whole[1], 0), min(whole[2], width), min(whole[3], height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise RowError("box", f"box {list(box)} is outside the {width}x{height} image")
    return [int(side) if side == int(side) else side for side in inside], inside != whole


def _number(element: Any, tag: str, path: Path) -> float:
    text = element.findtext(tag)
    try:
        value = float(text)
    except (TypeError, ValueError) as error:
        raise RowError("annotation", f"{path}: {tag} must be a number; got {text!r:.80}") from error
    if not math.isfinite(value):
        raise RowError("annotation", f"{path}: {tag} must be finite; got {text!r}")
    return value
