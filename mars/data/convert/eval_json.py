"""Read the paper's evaluation files of LLVIP, SpatialQA, nuScenes and OCR-VQA.

They hold [{role, content: [images, text], ground_truth, extra_info?}]. The ground truth is not changed. It is
boxes in pixels of the stored image, a letter, or words that may have alternatives ("three or 3").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from mars.data.convert.licences import LICENCES, NOT_STATED
from mars.data.convert.public_set import PublicSet
from mars.data.convert.question_set import SetRules, numbered, question_set
from mars.data.convert.spatialqa import depth_places
from mars.data.convert.spatialqa import sources as rgb_and_depth
from mars.data.rows.problems import RowError

DEFAULT_DEPTH = "depth_spatialbot"  # encoding of 16-bit depth, which these files do not declare


def eval_json_set(
    source: Path, image_root: Path | None, depth: str, name: str | None, responses: bool = False
) -> PublicSet:
    """name: data_source of rows that have none. If it is None, they get the name of the public set that the
    file's name mentions, or else the file's own name. responses: see `SetRules`."""
    public = question_set(source, image_root, lambda path: _rules(name or _name_of(path), depth, responses))
    return replace(public, keep_repeated=True)


def read_json_rows(
    file: str, image_root: str | None, responses: bool = False
) -> Iterator[tuple[str, Mapping[str, Any] | RowError]]:
    """The rows of a .json file of this format: for each its place, and its columns or the RowError that refuses it.

    The place is the record's number in the file, from 0, such as "3"; or "3, question 2" if it has several questions.

    image_root: the folder in which images are looked up; None: the file's folder. responses: see `SetRules`.
    Raises DataError for a file that cannot be read.
    """
    root = None if image_root is None else Path(image_root)
    public = eval_json_set(Path(file), root, DEFAULT_DEPTH, None, responses)
    for item in (item for items in public.splits.values() for item in items):
        place = item.label.rpartition(":")[2]
        try:
            yield place, public.read(item).columns
        except RowError as error:
            yield place, error


def _rules(name: str, depth: str, responses: bool) -> SetRules:
    return SetRules(
        name=name,
        converter="eval_json 2",
        licence=LICENCES.get(name, NOT_STATED),
        sources=partial(numbered, "cover") if name == "ocr_vqa" else sources,
        depth=depth,
        keep_file_names=True,
        tidy=not responses,  # a cold start reads conversations as `mars data convert jsonl` converts them
        responses=responses,
    )


def sources(paths: Sequence[str]) -> tuple[str, ...]:
    """Source names of two paths by their folders: visible and infrared, or rgb and depth (`depth_places`).

    Other paths are view_1, view_2 …; a single image is "image".
    """
    if len(paths) == 1:
        return ("image",)
    parents = [PurePosixPath(path).parent for path in paths]
    spectra = [{"visible", "infrared"} & {part.lower() for part in parent.parts} for parent in parents]
    if len(paths) == 2 and [len(found) for found in spectra] == [1, 1] and spectra[0] != spectra[1]:
        return tuple(found.pop() for found in spectra)
    if len(paths) == 2 and len(depth_places(paths)) == 1:
        return rgb_and_depth(paths)
    return numbered("view", paths)


def _name_of(file: Path) -> str:
    stem = re.sub(r"[^a-z0-9]+", "_", file.stem.lower()).strip("_")
    bare = stem.replace("_", "")
    return next((name for name in LICENCES if name.replace("_", "") in bare), stem or "eval")
