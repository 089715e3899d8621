"""Result files for tests, written as they are on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e"
Boxes = Sequence[Sequence[float]]


def boxes_text(boxes: Boxes) -> str:
    """A well-formed grounding response."""
    entries = json.dumps([{"bbox_2d": list(box), "label": "person"} for box in boxes])
    return f"<think>looking</think><answer>```json\n{entries}\n```</answer>"


def vqa_text(answer: str) -> str:
    return f"<think>looking</think><answer>{answer}</answer>"


def line(prompt_id: str, view: str | None, text: str, truth: str, **fields: Any) -> dict[str, Any]:
    """One line of answers.jsonl. Sources are visible and infrared, 100 x 50 pixels, read by the model as they are."""
    image = {"size": [100, 50], "encoding": "rgb", "row": None, "slot": None}
    names = fields.pop("names", ("visible", "infrared"))
    return {
        "prompt_id": prompt_id,
        "number": ord(prompt_id[0]),
        "row": f"rows.jsonl:{prompt_id}",
        "data_source": "set",
        "view": None if view is None else [view],
        "sample": 0,
        "text": text,
        "truth": truth,
        "truth_size": [100, 50],
        "response_size": [100, 50],
        "extra_info": {},
        "finish_reason": "stop",
        "prompt_tokens": 20,
        "response_tokens": 5,
        "question": [{"role": "user", "text": f"<image>\n<image>\nWhat of {prompt_id}?"}],
        "sources": [{"name": name, "image": {"path": f"/nowhere/{name}.png", **image}} for name in names],
        **fields,
    }


def write_folder(
    folder: Path, lines: Sequence[Mapping[str, Any]], asked: Mapping[str, int] | None = None, **manifest: Any
) -> Path:
    """A folder as `mars eval infer` leaves it. asked: as counted in `lines` if not given."""
    folder.mkdir(parents=True, exist_ok=True)
    if asked is None:
        names = ["multi" if item["view"] is None else "+".join(map(str, item["view"])) for item in lines]
        asked = {name: names.count(name) for name in dict.fromkeys(names)}
    (folder / "answers.jsonl").write_text("".join(json.dumps(item) + "\n" for item in lines))
    content = {"identity": {"model": "m"}, "asked": asked, "dropped": {}, "unreadable": {}, **manifest}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def write_public(path: Path, entries: Sequence[tuple[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"content": [text], "ground_truth": truth} for text, truth in entries]))
    return path


def hostile_folder(tmp_path: Path) -> Path:
    """A run of one scene, with a picture and texts that must not act."""
    picture = tmp_path / "visible.png"
    Image.new("RGB", (100, 50), (200, 30, 30)).save(picture)
    truth = json.dumps([[0, 0, 50, 25]])
    lines = [
        line("a", None, boxes_text([[0, 0, 50, 25]]) + HOSTILE, truth),
        line("a", "visible", boxes_text([[0, 0, 50, 50]]), truth),
        line("a", "infrared", "nothing", truth),
    ]
    for item in lines:
        item["sources"][0]["image"]["path"] = str(picture)
        item["question"][0]["text"] += HOSTILE
    return write_folder(tmp_path / "run", lines)
