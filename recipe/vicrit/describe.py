"""True descriptions of the quick start's scenes, for the tiny experiment: `python recipe/vicrit/describe.py DATA OUT`.

DATA: the quick start's folder of rows and scenes. OUT: a .jsonl file to write. It is
input of `mars data build`, which also needs --image-root DATA, because OUT has the images' paths relative to DATA.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

LIGHT = {
    "day": "The visible image is bright and shows the truth",
    "night": "The visible image is dark and misleads",
    "both": "The visible image is bright, and both images agree",
}


def describe(light: str, box: list[int], side: int) -> str:
    """The light, and where a person's box is in an image of `side` x `side` pixels."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    height = ("top", "middle", "bottom")[min(int(3 * y / side), 2)]
    return f"{LIGHT[light]}. One person is standing on the {'left' if x < side / 2 else 'right'}, near the {height}."


def main(data: Path, out: Path) -> None:
    from pyarrow import parquet

    scenes = json.loads((data / "scenes" / "scenes.json").read_text(encoding="utf-8"))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as lines:
        for row in parquet.read_table(data / "train.parquet").to_pylist():
            extra = row["extra_info"]
            (person,) = json.loads(row["reward_model"]["ground_truth"])
            text = describe(scenes[extra["id"]]["light"], person["bbox_2d"], extra["image_sizes"][0][0])
            written = {
                "prompt": "<image>" * len(row["images"]) + "\nDescribe the scene.",
                "images": [image["path"] for image in row["images"]],
                "answer": text,
                "extra_info": {"id": extra["id"], "sources": extra["sources"]},
            }
            lines.write(json.dumps(written) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Describe the quick start's scenes.")
    parser.add_argument("data", type=Path, help="the quick start's folder of rows and scenes")
    parser.add_argument("out", type=Path, help="a .jsonl file to write")
    given = parser.parse_args()
    main(given.data, given.out)
