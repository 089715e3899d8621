"""A stand-in for the image model of Syn-GRPO: new rows whose images have one colour outside the boxes.

    python recipe/syn_grpo/paint.py runs/quickstart/data/train.parquet runs/puzzles/syn_grpo
    python recipe/syn_grpo/paint.py runs/puzzles/syn_grpo/wanted/step_000001.jsonl runs/puzzles/syn_grpo

The first command makes a new row from each row of the file. The second command makes one from each description in a
file that a run has written. The new file appears when it is complete, with its images in it.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL import Image
from pyarrow import Table, parquet

from mars.output.files import replacing

COLUMNS = ("data_source", "prompt", "reward_model")
Row = Mapping[str, Any]


def main(source: str, folder: str) -> None:
    path, rows = Path(folder, f"{Path(source).stem}.parquet"), []
    for number, (row, home, made_from, description) in enumerate(wanted(source)):
        colour = tuple(blake2b(f"{number}:{description}".encode(), digest_size=3).digest())
        boxes = [box["bbox_2d"] for box in json.loads(row["reward_model"]["ground_truth"])]
        images = [{"bytes": as_png(painted(opened(cell, home), boxes, colour)), "path": None} for cell in row["images"]]
        extra = {**row["extra_info"], "id": f"{path.stem}_{number:06}", "made_from": made_from}
        extra = {key: value for key, value in extra.items() if key != "encodings"}
        rows.append({**{key: row[key] for key in COLUMNS}, "images": images, "extra_info": extra})
    with replacing(path) as draft:
        parquet.write_table(Table.from_pylist(rows), draft)
    sys.stdout.write(f"{path}: {len(rows)} rows\n")


def wanted(source: str) -> Iterator[tuple[Row, Path, str | None, str]]:
    """For each new row: (the row it is made from, folder of that row's images, `made_from`, description).

    made_from: the id of the prompt whose response gave the description. For a .parquet file, which has no descriptions,
    the last two are None and "".
    """
    if source.endswith(".parquet"):
        yield from ((row, Path(source).parent, None, "") for row in rows_of(source))
        return
    files: dict[str, list[Row]] = {}
    for line in Path(source).read_text(encoding="utf-8").splitlines():
        asked = json.loads(line)
        file, _, number = asked["row"].rpartition(":")
        if file not in files:
            files[file] = rows_of(file)
        yield files[file][int(number)], Path(file).parent, asked["made_from"], asked["description"]


def rows_of(file: str) -> list[Row]:
    if file.endswith(".parquet"):
        return parquet.read_table(file).to_pylist()
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def opened(cell: Any, home: Path) -> Image.Image:
    """Opens an image of a row. `cell`: its path below `home`, or a mapping with its bytes or its path."""
    cell = {"path": cell} if isinstance(cell, str) else cell
    return Image.open(io.BytesIO(cell["bytes"]) if cell.get("bytes") else home / cell["path"])


def as_png(image: Image.Image) -> bytes:
    with io.BytesIO() as stream:
        image.save(stream, format="png")
        return stream.getvalue()


def painted(image: Image.Image, boxes: list[list[int]], colour: tuple[int, ...]) -> Image.Image:
    """The image with `colour` outside the boxes, whose numbers are pixels of the image."""
    image = image.convert("RGB")
    made = Image.new("RGB", image.size, colour[:3])
    for box in boxes:
        made.paste(image.crop(tuple(box)), tuple(box[:2]))
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make new rows that stand in for those of an image model.")
    parser.add_argument("source", help="a .parquet file of rows, or a .jsonl file of descriptions")
    parser.add_argument("folder", help="where the file of new rows appears")
    given = parser.parse_args()
    main(given.source, given.folder)
