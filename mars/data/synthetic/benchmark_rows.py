"""Writes the benchmark to disk: image files, and parquet files of rows in mars' own format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mars.data.synthetic.benchmark import PARTS, QUESTIONS, SOURCES, TASKS, Item, Part, Task, make_item
from mars.data.synthetic.scenes import SIDE
from mars.data.synthetic.write import SetSizes
from mars.errors import DataError
from mars.output.files import replacing
from mars.output.progress import progress
from mars.types import IMAGE_MARKER

UNNAMED = "looking"  # the thought of a teacher that names no image


@dataclass(frozen=True)
class Teacher:
    """The noisy teacher of a cold start.

    dial: the probability that it believes the visible image if a row shows both. 0.5: neutral, 1.0: always the visible
        one.
    names_source: whether its thought is the name of the image that it believes. If not, it is UNNAMED.
    """

    dial: float
    names_source: bool = True


def write_benchmark(
    out: str | Path, *, seed: int, sizes: SetSizes, teacher: Teacher, tasks: tuple[Task, ...] = TASKS
) -> None:
    """Write a benchmark set into the folder `out`; same arguments, same bytes.

        {train,test,cold_start}.parquet                      rows (docs/data.md); no file of a part with 0 rows
        {train,test,cold_start}/{visible,infrared}/ID.png    their images

    Rows have `extra_info.task`, `light` and `decoy`. `decoy` is the answer that the misleading image shows, null if no
    image misleads. The rows of the cold start show, in turn: both images, the visible one, both, the infrared one.
    Their column `response` is the teacher's. If a row shows one image, the teacher believes it; if two, it follows its
    dial, whatever the light. So a policy learns to read an image, but not which one to trust. Raises DataError for a
    dial outside [0, 1] or a negative size.
    """
    if not 0.0 <= teacher.dial <= 1.0:
        raise DataError(f"bias: not a probability; got {teacher.dial}; give a number from 0 to 1")
    if any(getattr(sizes, part) < 0 for part in PARTS):
        raise DataError(f"number of scenes: negative; got {sizes}; give 0 or more")
    for part in PARTS:
        _write_part(Path(out), seed, part, getattr(sizes, part), teacher, tasks)


def _write_part(out: Path, seed: int, part: Part, size: int, teacher: Teacher, tasks: tuple[Task, ...]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    if not size:
        return
    for source in SOURCES:
        (out / part / source).mkdir(parents=True, exist_ok=True)
    rows = []
    for index in progress(range(size), f"Drawing {part.replace('_', ' ')} scenes", size):
        item = make_item(seed, part, index, tasks)
        shown = SOURCES
        if part == "cold_start":
            shown = (SOURCES, SOURCES[:1], SOURCES, SOURCES[1:])[index % 4]
        files = [f"{part}/{source}/{index:06d}.png" for source in shown]
        for source, file in zip(shown, files, strict=True):
            _save_image(getattr(item, source), out / file)
        row = _row(item, part, index, shown, files)
        if part == "cold_start":
            row["response"] = teachers_response(item, shown, teacher, np.random.default_rng((seed, index, 1)))
        rows.append(row)
    with replacing(out / f"{part}.parquet") as draft:
        parquet.write_table(pa.Table.from_pylist(rows), draft)


def teachers_response(item: Item, shown: Sequence[str], teacher: Teacher, rng: np.random.Generator) -> str:
    """What the teacher answers to the images of `shown`, one or both of SOURCES."""
    draw = rng.random()  # drawn for one image too: what `rng` gives next does not depend on `shown`
    believed = shown[0] if len(shown) == 1 else SOURCES[0 if draw < teacher.dial else 1]
    return response(believed if teacher.names_source else UNNAMED, item.seen_in(believed))


def response(thought: str, answer: str) -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


def _row(item: Item, part: Part, index: int, shown: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    return {
        "data_source": f"benchmark_{item.task}",
        "prompt": [{"role": "user", "content": f"{IMAGE_MARKER * len(shown)}\n{QUESTIONS[item.task]}"}],
        "images": list(files),
        "reward_model": {"style": "rule", "ground_truth": item.answer},
        "extra_info": {
            "id": f"{part}-{index:06d}",
            "index": index,
            "split": part,
            "sources": list(shown),
            "image_sizes": [[SIDE, SIDE]] * len(shown),
            "task": item.task,
            "light": item.light,
            "decoy": item.decoy,
        },
    }


def _save_image(pixels: np.ndarray, file: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(file, compress_level=1)
