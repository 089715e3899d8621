"""Three rows with images, for the project folder that `mars init` makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mars.data.synthetic.scenes import SIDE, Scene, make_scene
from mars.types import IMAGE_MARKER

ROWS_FILE = "rows.jsonl"
SOURCES = ("visible", "infrared")
_SEED = 0


def _light(scene: Scene) -> str:
    return "night" if scene.light == "night" else "day"


def _side(scene: Scene) -> str:
    x1, _, x2, _ = scene.box
    return "left" if x1 + x2 < SIDE else "right"


# (question, index of the scene, function from the scene to the answer)
_QUESTIONS: tuple[tuple[str, int, Callable[[Scene], str]], ...] = (
    ("Is it day or night?", 0, _light),
    ("Is it day or night?", 1, _light),
    ("Is the person on the left or on the right?", 2, _side),
)


def write_starter(folder: Path) -> None:
    """Write `rows.jsonl` and its images `images/SOURCE/NUMBER.png` (56 x 56 pixels) to `folder`.

    The rows have the form that docs/data.md advises. Raises OSError.
    """
    from PIL import Image

    lines = []
    for number, (question, index, answer) in enumerate(_QUESTIONS, start=1):
        scene = make_scene(_SEED, index)
        images = [f"images/{source}/{number}.png" for source in SOURCES]
        for source, name in zip(SOURCES, images, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(getattr(scene, source)).save(folder / name)
        row = {
            "prompt": f"{IMAGE_MARKER * len(SOURCES)}\n{question}",
            "images": images,
            "answer": answer(scene),
            "extra_info": {"id": str(number), "sources": list(SOURCES)},
        }
        lines.append(json.dumps(row) + "\n")
    (folder / ROWS_FILE).write_text("".join(lines), encoding="utf-8")
