"""nuScenes multi-view questions of DEMON (Li et al. 2023, arXiv 2308.04152) and M4-Instruct: six cameras of a car.

The sets do not document which image is from which camera, so the sources are view_1 to view_6 in the order of the
record. Ground truths keep their alternatives ("three or 3").
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mars.data.convert.licences import LICENCES
from mars.data.convert.public_set import PublicSet
from mars.data.convert.question_set import SetRules, numbered, question_set

RULES = SetRules(
    name="nuscenes",
    converter="nuscenes 2",
    licence=LICENCES["nuscenes"],
    sources=partial(numbered, "view"),
)


def nuscenes_set(source: Path, image_root: Path | None) -> PublicSet:
    return question_set(source, image_root, RULES)
