"""LLVIP (Jia et al. 2021, arXiv 2108.10831), persons in registered visible and infrared images, to parquet.

On disk: {visible,infrared}/{train,test}/ID.jpg, and Annotations/ID.xml or Annotations/{train,test}/ID.xml.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.data.convert.output import write_card, write_rows
from mars.data.convert.voc import pixel_box, read_annotation
from mars.data.images import BadImage, probe_size
from mars.data.instructions import GROUNDING_INSTRUCTION, PERSON_QUESTION
from mars.data.problems import RowError
from mars.data.views import MARKER
from mars.errors import DataError
from mars.progress import progress

logger = logging.getLogger(__name__)

CONVERTER = "llvip 1"
LICENCE = "LLVIP terms of use: non-commercial research and education only"
SOURCES = ("visible", "infrared")
SPLITS = ("train", "test")
LABEL = "person"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
THREADS = 8


@dataclass(frozen=True)
class _Scene:
    """One scene's files as found. images: the candidates for each source, exactly one where all is well."""

    name: str
    images: Mapping[str, Sequence[Path]]
    annotations: Sequence[Path]


@dataclass(frozen=True)
class _Sample:
    """One usable scene. files and hashes: path and sha256 of each source; boxes: see `pixel_box`."""

    name: str
    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    size: tuple[int, int]
    boxes: tuple[list[float], ...]
    num_clipped: int
    num_other_labels: int


def convert_llvip(
    src: str,
    out: str,
    *,
    splits: Sequence[str] = SPLITS,
    question: str = PERSON_QUESTION,
    instruction: str = GROUNDING_INSTRUCTION,
    data_source: str = "llvip",
    licence: str = LICENCE,
) -> dict[str, Any]:
    """Write {split}.parquet for every split and the card dataset.json into `out`; returns the card.

    Image paths are relative to `out` where `src` lies in it (the files need no data.image_root then), else to `src`
    (set data.image_root to it). Scenes that cannot be used are left out, and listed in the card by reason.
    question, instruction: the prompt's text below the two "<image>" markers.
    data_source, licence: of other sets in the same layout.
    Raises DataError if a folder is missing or a split has no usable scene.
    """
    if MARKER in question + instruction:
        raise DataError(f"question and instruction must not hold {MARKER}; got {question!r}, {instruction!r}")
    root, target = Path(src).resolve(), Path(out).resolve()
    base = target if root.is_relative_to(target) else root
    scenes = {split: _scenes(root, split) for split in splits}
    target.mkdir(parents=True, exist_ok=True)
    text = f"{MARKER * len(SOURCES)}\n{question}\n{instruction}"
    card: dict[str, Any] = {
        "data_source": data_source,
        "converter": CONVERTER,
        "licence": licence,
        "sources": list(SOURCES),
        "image_paths_relative_to": "this folder" if base == target else "the source folder; set data.image_root to it",
        "splits": {},
        "image_sha256": {},
    }
    for split in splits:
        samples, dropped = _read_samples(scenes[split], f"Converting {split}")
        if not samples:
            raise DataError(f"{src}: no usable scene in split {split!r}; got {_counts(dropped)}")
        write_rows(
            [_row(s, i, split, base, text, data_source) for i, s in enumerate(samples)], target / f"{split}.parquet"
        )
        card["splits"][split] = _split_card(samples, dropped)
        for sample in samples:
            paths = (_relative(file, base) for file in sample.files)
            card["image_sha256"].update(zip(paths, sample.hashes, strict=True))
        if dropped:
            logger.warning("%s %s: %d scenes left out: %s", data_source, split, len(dropped), _counts(dropped))
    write_card(card, target / "dataset.json")
    return card


def _scenes(root: Path, split: str) -> list[_Scene]:
    """All scenes of a split that have a file for some source, sorted by name."""
    images = {source: _by_stem(root / source / split, SUFFIXES) for source in SOURCES}
    folders = [folder for folder in (root / "Annotations" / split, root / "Annotations") if folder.is_dir()]
    if not folders:
        raise DataError(f"{root / 'Annotations'}: no such folder; give the folder that holds visible and infrared")
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


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder that holds visible, infrared and Annotations")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes:
            found.setdefault(path.stem, []).append(path)
    return found


def _read_samples(scenes: Sequence[_Scene], title: str) -> tuple[list[_Sample], list[tuple[str, str]]]:
    """Usable scenes, and (name, reason) of the others, both in order."""

    def read(scene: _Scene) -> _Sample | tuple[str, str]:
        try:
            return _read_sample(scene)
        except RowError as error:
            logger.info("%s: %s", scene.name, error)
            return scene.name, error.reason

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(progress(pool.map(read, scenes), title, len(scenes)))
    samples = [result for result in results if isinstance(result, _Sample)]
    return samples, [result for result in results if not isinstance(result, _Sample)]


def _read_sample(scene: _Scene) -> _Sample:
    files, hashes, sizes = [], [], []
    for source in SOURCES:
        path = _only(scene.images[source], f"{source}_image", scene.name)
        size, digest = _read_image(path)
        files.append(path)
        hashes.append(digest)
        sizes.append(size)
    annotation = read_annotation(_only(scene.annotations, "annotation", scene.name))
    size = sizes[0]
    if sizes[1] != size or annotation.size not in (None, size):
        raise RowError("sizes_differ", f"visible {size}, infrared {sizes[1]}, annotation {annotation.size}")
    persons = [box for label, box in annotation.objects if label.lower() == LABEL]
    if not persons:
        raise RowError("no_person", f"{scene.name}: the annotation has no {LABEL}")
    boxes = [pixel_box(box, size) for box in persons]
    return _Sample(
        name=scene.name,
        files=tuple(files),
        hashes=tuple(hashes),
        size=size,
        boxes=tuple(box for box, _ in boxes),
        num_clipped=sum(clipped for _, clipped in boxes),
        num_other_labels=len(annotation.objects) - len(persons),
    )


def _only(paths: Sequence[Path], what: str, name: str) -> Path:
    if len(paths) != 1:
        raise RowError(f"{'several' if paths else 'missing'}_{what}", f"{name}: {len(paths)} files of {what}")
    return paths[0]


def _read_image(path: Path) -> tuple[tuple[int, int], str]:
    """(width, height) and sha256."""
    try:
        data = path.read_bytes()
        return probe_size(data, "rgb", str(path)), hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise RowError("image_missing", f"{path}: {error}") from error
    except BadImage as error:
        raise RowError(f"image_{error.reason}", str(error)) from error


def _row(sample: _Sample, index: int, split: str, base: Path, text: str, data_source: str) -> dict[str, Any]:
    truth = [{"bbox_2d": box, "label": LABEL} for box in sample.boxes]
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": text}],
        "images": [{"bytes": None, "path": _relative(file, base)} for file in sample.files],
        "reward_model": {"style": "rule", "ground_truth": json.dumps(truth)},
        "extra_info": {
            "id": sample.name,
            "index": index,
            "split": split,
            "sources": list(SOURCES),
            "image_sizes": [list(sample.size)] * len(SOURCES),
            "box_space": "original_pixels",
            "choices": None,
        },
    }


def _relative(file: Path, base: Path) -> str:
    return Path(os.path.relpath(file, base)).as_posix()


def _split_card(samples: Sequence[_Sample], dropped: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "rows": len(samples),
        "boxes": sum(len(sample.boxes) for sample in samples),
        "boxes_clipped": sum(sample.num_clipped for sample in samples),
        "boxes_of_other_labels": sum(sample.num_other_labels for sample in samples),
        "dropped": _counts(dropped),
        "dropped_ids": {reason: [name for name, why in dropped if why == reason] for reason in _counts(dropped)},
    }


def _counts(dropped: Sequence[tuple[str, str]]) -> dict[str, int]:
    return dict(sorted(Counter(reason for _, reason in dropped).items()))
