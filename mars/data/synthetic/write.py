"""Write synthetic scenes to disk: training and test scenes in LLVIP's layout, and rows for a cold start."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from mars.data.convert.llvip import QUESTION
from mars.data.synthetic.scenes import SIDE, Box, Scene, make_scene
from mars.errors import DataError
from mars.output.progress import progress
from mars.types import IMAGE_MARKER

SOURCES = ("visible", "infrared")
# The id of a scene is also its index for `make_scene`, so no scene is in two parts.
FIRST_ID = {"train": 100_000, "test": 200_000, "cold_start": 300_000}
LARGEST_SET = 100_000


@dataclass(frozen=True)
class SetSizes:
    """Scenes of each part. cold_start: half of its rows show both images, half show one."""

    train: int
    test: int
    cold_start: int


def write_synthetic(out: str | Path, *, seed: int, sizes: SetSizes, bias: float) -> None:
    """Write a data set into the folder `out`; same arguments, same bytes.

        {visible,infrared}/{train,test}/ID.png, Annotations/ID.xml   LLVIP's layout, for `mars data convert llvip`
        cold_start.parquet, cold_start/{visible,infrared}/ID.png     rows with a worked answer (column `response`)
        scenes.json                                                  per ID: split, light, and the decoy's box or null

    The responses of the cold start are those of a simulated teacher, and may be wrong: its answer is the box that it
    sees in one image. If a row shows two images, that is the visible one with probability `bias`, whatever the light.
    So the policy learns to read each image, but not to tell from the background which one to trust: with bias 0.5 it
    learns no preference, with 1.0 it learns to trust the visible one always.
    Raises DataError for a bias outside [0, 1], or if a part of `sizes` is negative or more than 100,000.
    """
    _check(sizes, bias)
    out = Path(out)
    scenes: dict[str, Any] = {}
    for split in ("train", "test"):
        for source in SOURCES:
            (out / source / split).mkdir(parents=True, exist_ok=True)
        (out / "Annotations").mkdir(parents=True, exist_ok=True)
        for number in _numbers(split, getattr(sizes, split)):
            scene = make_scene(seed, number)
            name = f"{number:06d}"
            _save_images(scene, {source: out / source / split / f"{name}.png" for source in SOURCES})
            (out / "Annotations" / f"{name}.xml").write_bytes(voc_xml(f"{name}.png", scene.box))
            scenes[name] = {"split": split, "light": scene.light, "decoy": scene.decoy}
    _write_cold_start(out, seed, sizes.cold_start, bias)
    (out / "scenes.json").write_text(json.dumps(scenes, indent=0) + "\n", encoding="utf-8")


def _numbers(part: str, size: int) -> Iterable[int]:
    """Yields the id of every scene of `part` ("train", "test" or "cold_start") and shows a progress bar."""
    numbers = range(FIRST_ID[part], FIRST_ID[part] + size)
    return progress(numbers, f"Drawing {part.replace('_', ' ')} scenes", size)


def voc_xml(file_name: str, box: Box) -> bytes:
    """A Pascal VOC annotation of one person. Its pixels count from 1 and its ends are inclusive.

    Example: the box (0, 14, 14, 42) is written xmin 1, ymin 15, xmax 14, ymax 42.
    """
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = file_name
    _add_numbers(ElementTree.SubElement(root, "size"), {"width": SIDE, "height": SIDE, "depth": 3})
    person = ElementTree.SubElement(root, "object")
    ElementTree.SubElement(person, "name").text = "person"
    x1, y1, x2, y2 = box
    corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
    _add_numbers(ElementTree.SubElement(person, "bndbox"), corners)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8") + b"\n"


def worked_answer(scene: Scene, shown: Sequence[str], believed: str) -> str:
    """The teacher's response, in the form that the reward `grounding` reads.

    Its answer is the box of the figure in the image `believed`.

    Its reasoning describes the image of each source in `shown`.
    """
    looks = "".join(f"The {source} image is {scene.looks(source)}. " for source in shown)
    boxes = json.dumps([{"bbox_2d": list(scene.seen_in(believed)), "label": "person"}])
    return f"<think>{looks}The {believed} image shows the person.</think><answer>```json\n{boxes}\n```</answer>"


def _check(sizes: SetSizes, bias: float) -> None:
    if not 0.0 <= bias <= 1.0:
        raise DataError(f"bias: not a probability; got {bias}; give a number from 0 to 1")
    for name in FIRST_ID:
        if not 0 <= getattr(sizes, name) <= LARGEST_SET:
            raise DataError(f"{name}: the number of scenes; got {getattr(sizes, name)}; give 0 to {LARGEST_SET}")


def _write_cold_start(out: Path, seed: int, size: int, bias: float) -> None:
    """Write rows that show, in turn: both images, the visible one, both images, the infrared one."""
    import pyarrow as pa
    from pyarrow import parquet

    folder = out / "cold_start"
    for source in SOURCES:
        (folder / source).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in _numbers("cold_start", size):
        scene = make_scene(seed, number)
        shown = (SOURCES, SOURCES[:1], SOURCES, SOURCES[1:])[number % 4]
        teacher = np.random.default_rng((seed, number, 1))
        believed = shown[0] if len(shown) == 1 else SOURCES[0 if teacher.random() < bias else 1]
        files = {source: folder / source / f"{number:06d}.png" for source in shown}
        _save_images(scene, files)
        rows.append(_row(number, scene, shown, believed, [files[source].relative_to(out) for source in shown]))
    parquet.write_table(pa.Table.from_pylist(rows), out / "cold_start.parquet")


def _row(number: int, scene: Scene, shown: Sequence[str], believed: str, files: Sequence[Path]) -> dict[str, Any]:
    return {
        "data_source": "synthetic_cold_start",
        "prompt": [
            {"role": "user", "content": f"{IMAGE_MARKER * len(shown)}\n{QUESTION}"},
        ],
        "images": [file.as_posix() for file in files],
        "reward_model": {
            "style": "rule",
            "ground_truth": json.dumps([{"bbox_2d": list(scene.box), "label": "person"}]),
        },
        "extra_info": {
            "id": f"{number:06d}",
            "index": number - FIRST_ID["cold_start"],
            "split": "cold_start",
            "sources": list(shown),
            "image_sizes": [[SIDE, SIDE]] * len(shown),
            "box_space": "original_pixels",
        },
        "response": worked_answer(scene, shown, believed),
    }


def _save_images(scene: Scene, files: dict[str, Path]) -> None:
    from PIL import Image

    for source, file in files.items():
        Image.fromarray(getattr(scene, source)).save(file, compress_level=1)


def _add_numbers(element: ElementTree.Element, values: dict[str, int]) -> None:
    for name, value in values.items():
        ElementTree.SubElement(element, name).text = str(value)
