"""Convert LLVIP (Jia et al. 2021, arXiv 2108.10831): persons in registered visible and infrared images.

On disk: {visible,infrared}/{train,test}/ID.jpg, and Annotations/ID.xml or Annotations/{train,test}/ID.xml.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mars.data.convert.licences import LICENCES
from mars.data.convert.output import check_unicode
from mars.data.convert.public_set import Item, PublicSet, ReadItem
from mars.data.convert.voc import pixel_box, read_annotation
from mars.data.pixels.images import BadImage, probe_size
from mars.data.rows.problems import RowError
from mars.errors import DataError
from mars.types import IMAGE_MARKER

CONVERTER = "llvip 3"
LICENCE = LICENCES["llvip"]
QUESTION = "Detect every person in the scene."
SOURCES = ("visible", "infrared")
SPLITS = ("train", "test")
LABEL = "person"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class LlvipOptions:
    """question: the prompt's text after the two image placeholders. The template adds how to answer (data.template).

    keep_empty: scenes without a person are rows too (truth []).
    splits: None converts all splits that are there.
    """

    question: str = QUESTION
    keep_empty: bool = False
    splits: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Scene:
    """The files of one scene. images: the candidates for each source; exactly one in a valid scene."""

    name: str
    images: Mapping[str, Sequence[Path]]
    annotations: Sequence[Path]


def llvip_set(source: Path, image_root: Path | None, options: LlvipOptions) -> PublicSet:
    """The set in the folder `source`. image_root: a parent folder that paths are relative to; None: `source`.

    Raises DataError if a folder is missing.
    """
    if IMAGE_MARKER in options.question:
        raise DataError(f"the question must not hold {IMAGE_MARKER}; got {options.question!r}")
    check_unicode({"--question": options.question})
    root = Path(os.path.realpath(source))
    around = root if image_root is None else Path(os.path.realpath(image_root))
    if not root.is_relative_to(around):
        raise DataError(f"--image-root: does not contain {root}; got {around}; give {root}, or a folder around it")
    splits = options.splits
    if splits is None:
        there = (split for split in SPLITS if any((root / source / split).is_dir() for source in SOURCES))
        splits = tuple(there) or SPLITS
    _check_folders(root, splits)
    scenes = {split: _scenes(root, split) for split in splits}
    unused = _unused_annotations(root, scenes)
    return PublicSet(
        name="llvip",
        converter=CONVERTER,
        licence=LICENCE,
        image_root=around,
        splits={split: [Item(scene.name, scene) for scene in found] for split, found in scenes.items()},
        read=partial(_read, root=around, options=options),
        left_out={"annotations_without_image": unused} if unused else {},
    )


def _check_folders(root: Path, splits: Sequence[str]) -> None:
    """Raises DataError with every folder that is missing."""
    wanted = [root / source / split for split in splits for source in SOURCES] + [root / "Annotations"]
    missing = [folder for folder in wanted if not folder.is_dir()] if root.is_dir() else [root]
    if missing:
        lines = [f"{folder}: no such folder" for folder in missing]
        raise DataError("\n".join([*lines, "give the folder that holds visible, infrared and Annotations"]))


def _scenes(root: Path, split: str) -> list[_Scene]:
    """All scenes of a split that have a file for some source, sorted by name."""
    images = {source: _by_stem(root / source / split, SUFFIXES) for source in SOURCES}
    folders = [folder for folder in (root / "Annotations" / split, root / "Annotations") if folder.is_dir()]
    annotations = [_by_stem(folder, (".xml",)) for folder in folders]
    names = sorted(set().union(*images.values()))
    return [
        _Scene(
            name=name,
            images={source: images[source].get(name, []) for source in SOURCES},
            annotations=next((found[name] for found in annotations if name in found), []),
        )
        for name in names
    ]


def _unused_annotations(root: Path, scenes: Mapping[str, Sequence[_Scene]]) -> int:
    """The number of annotations without an image, in Annotations/ and in its folders of the chosen splits."""
    folders = [root / "Annotations", *(root / "Annotations" / split for split in scenes)]
    named = {scene.name for found in scenes.values() for scene in found}
    there = [_by_stem(folder, (".xml",)) for folder in folders if folder.is_dir()]
    return sum(len(paths) for found in there for name, paths in found.items() if name not in named)


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes:
            found.setdefault(path.stem, []).append(path)
    return found


def _read(item: Item, root: Path, options: LlvipOptions) -> ReadItem:
    scene: _Scene = item.content
    files = [_only(scene.images[source], f"{source}_image", scene.name) for source in SOURCES]
    sizes = [_size(file) for file in files]
    annotation = read_annotation(_only(scene.annotations, "annotation", scene.name))
    size = sizes[0]
    if sizes[1] != size or annotation.size not in (None, size):
        raise RowError("sizes_differ", f"visible {size}, infrared {sizes[1]}, annotation {annotation.size}")
    persons = [box for label, box in annotation.objects if label.lower() == LABEL]
    if not persons and not options.keep_empty:
        raise RowError("no_person", f"{scene.name}: the annotation has no {LABEL}")
    boxes = [pixel_box(box, size) for box in persons]
    columns = {
        "data_source": "llvip",
        "prompt": [{"role": "user", "content": f"{IMAGE_MARKER * len(SOURCES)}\n{options.question}"}],
        "images": [Path(os.path.relpath(file, root)).as_posix() for file in files],
        "reward_model": {"ground_truth": json.dumps([{"bbox_2d": box, "label": LABEL} for box, _ in boxes])},
        "extra_info": {"id": scene.name, "sources": list(SOURCES), "box_space": "original_pixels"},
    }
    counts = {
        "boxes": len(boxes),
        "boxes_clipped": sum(clipped for _, clipped in boxes),
        "boxes_of_other_labels": len(annotation.objects) - len(persons),
    }
    return ReadItem(columns, counts)


def _only(paths: Sequence[Path], what: str, name: str) -> Path:
    if len(paths) != 1:
        raise RowError(f"{'several' if paths else 'missing'}_{what}", f"{name}: {len(paths)} files of {what}")
    return paths[0]


def _size(path: Path) -> tuple[int, int]:
    try:
        return probe_size(str(path), "rgb", str(path))
    except BadImage as error:
        raise RowError(f"image_{error.reason}", str(error)) from error
