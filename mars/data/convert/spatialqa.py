"""SpatialQA and SpatialBench (Cai et al. 2024, arXiv 2406.13642): questions about a photograph and its depth.

SpatialQA: a JSON list of {id, image: [rgb, depth], conversations} with <image 1> tags. SpatialBench: {image, question,
answer}; the depth image of existence/7.jpg is existence_d/7.png.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from mars.data.convert.licences import LICENCES
from mars.data.convert.public_set import PublicSet
from mars.data.convert.question_set import SetRules, numbered, question_set
from mars.data.rows.problems import RowError

# The "no" of "No one", "no cups" and "no more than two" does not answer no.
_POLAR = re.compile(
    r"(yes)\b(?!\s*(?:or|and|/)\s*no\b)|(no)\b(?!\s*(?:or|and|/)\s*yes\b)"
    r"(?=\s*(?:[^\w\s]|$)|\s+(?:there|it|its|the|this|that|these|those|he|she|they|i|we|you)\b)",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"(?:the )?(?:final )?answer(?: ?:| is:?) [\"'*]*(yes|no)[\"'*]*[.!]?", re.IGNORECASE)


def spatialqa_set(source: Path, image_root: Path | None, depth: str) -> PublicSet:
    """depth: how 16-bit depth becomes RGB, one of mars.data.pixels.depth.DEPTH_ENCODINGS."""
    return question_set(source, image_root, replace(RULES, depth=depth))


def sources(paths: Sequence[str]) -> tuple[str, ...]:
    """("rgb", "depth") for two images; ("depth", "rgb") if only the first of the two is in a folder for depth.

    One image is "depth" in such a folder, else "rgb". More images are "view_1", "view_2" and so on.
    """
    if len(paths) == 1:
        return ("depth",) if depth_places(paths) == [0] else ("rgb",)
    if len(paths) == 2:
        return ("depth", "rgb") if depth_places(paths) == [0] else ("rgb", "depth")
    return numbered("view", paths)


def depth_places(paths: Sequence[str]) -> list[int]:
    """Indices of the paths in a folder for depth, whose name ends with "_d" or contains "depth".

    If there are several paths, the folders at their start that all of them share are ignored.

    >>> depth_places(["depth/existence/1.jpg", "depth/existence_d/1.png"])
    [1]
    """
    folders = [PurePosixPath(path).parent.parts for path in paths]
    levels = zip(*folders, strict=False) if len(paths) > 1 else ()
    shared = len(list(takewhile(lambda level: len(set(level)) == 1, levels)))
    own = [[part.lower() for part in parts[shared:]] for parts in folders]
    return [place for place, parts in enumerate(own) if any(p.endswith("_d") or "depth" in p for p in parts)]


def with_depth(paths: Sequence[str]) -> list[str]:
    """Add the path of the depth image if there is a single path: existence/7.jpg -> also existence_d/7.png."""
    if len(paths) != 1:
        return list(paths)
    image = PurePosixPath(paths[0])
    if not image.parent.name:
        problem = f"{paths[0]!r} has no folder, so its depth cannot be found; give --image-root the parent folder"
        raise RowError("sources", problem)
    return [paths[0], f"{image.parent}_d/{image.stem}.png"]


def yes_or_no(answer: Any) -> Any:
    """Reduce a sentence that answers yes or no to that word. Other answers are returned unchanged.

    >>> [yes_or_no(answer) for answer in ("Yes, on the left.", "No there is not.", "The answer is no.")]
    ['Yes', 'No', 'no']
    >>> [yes_or_no(answer) for answer in ("No one is there.", "yes or no", "2.5 m")]
    ['No one is there.', 'yes or no', '2.5 m']
    """
    if not isinstance(answer, str):
        return answer
    text = answer.strip()
    found = _POLAR.match(text) or _ANSWER.fullmatch(text)
    return next(filter(None, found.groups())) if found else answer


RULES = SetRules(
    name="spatialqa",
    converter="spatialqa 2",
    licence=LICENCES["spatialqa"],
    sources=sources,
    all_images=with_depth,
    truth=yes_or_no,
)
