"""SpatialQA and SpatialBench (Cai et al. 2024, arXiv 2406.13642): questions about a photograph and its depth.

SpatialQA: a JSON list of {id, image: [rgb, depth], conversations} with <image 1> tags. SpatialBench: {image, question,
answer}; the depth lies in the folder of the same name with _d, as .png with the same stem.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from mars.data.convert.licences import LICENCES
from mars.data.convert.public_set import PublicSet
from mars.data.convert.question_set import SetRules, numbered, question_set
from mars.data.problems import RowError

_POLAR = re.compile(r"(yes|no)\b(?!\s+\w)", re.IGNORECASE)


def spatialqa_set(source: Path, image_root: Path | None, depth: str) -> PublicSet:
    """depth: how 16-bit depth becomes RGB, one of mars.data.depth.DEPTH_ENCODINGS."""
    return question_set(source, image_root, replace(RULES, depth=depth))


def sources(paths: Sequence[str]) -> tuple[str, ...]:
    return ("rgb", "depth") if len(paths) == 2 else numbered("view", paths)


def with_depth(paths: Sequence[str]) -> list[str]:
    """A photograph alone, and its depth beside it: existence/7.jpg -> existence/7.jpg, existence_d/7.png."""
    if len(paths) != 1:
        return list(paths)
    image = PurePosixPath(paths[0])
    if not image.parent.name:
        raise RowError("sources", f"no folder for the depth of {paths[0]!r}; give --image-root the folder above it")
    return [paths[0], f"{image.parent}_d/{image.stem}.png"]


def yes_or_no(answer: Any) -> Any:
    """ "Yes, on the left." is asked as yes or no; any other answer stays.

    >>> yes_or_no("Yes, on the left."), yes_or_no("No one is there."), yes_or_no("2.5 m")
    ('Yes', 'No one is there.', '2.5 m')
    """
    found = _POLAR.match(answer.strip()) if isinstance(answer, str) else None
    return found[1] if found else answer


RULES = SetRules(
    name="spatialqa",
    converter="spatialqa 1",
    licence=LICENCES["spatialqa"],
    sources=sources,
    all_images=with_depth,
    truth=yes_or_no,
)
