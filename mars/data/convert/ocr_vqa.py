"""OCR-VQA of DEMON (Li et al. 2023, arXiv 2308.04152) and M4-Instruct: multiple choice about two book covers.

The choices are in the text ("Choice list : [A. …, B. …]") or in a field; the ground truth becomes a letter.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mars.data.convert.licences import LICENCES
from mars.data.convert.public_set import PublicSet
from mars.data.convert.question_set import SetRules, numbered, question_set

RULES = SetRules(
    name="ocr_vqa",
    converter="ocr_vqa 2",
    licence=LICENCES["ocr_vqa"],
    sources=partial(numbered, "cover"),
)


def ocr_vqa_set(source: Path, image_root: Path | None) -> PublicSet:
    return question_set(source, image_root, RULES)
