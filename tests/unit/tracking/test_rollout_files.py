from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from mars.tracking.rollouts import RolloutFiles, sample_prompts
from mars.types import ImageRef, PromptRollouts, RewardResult
from tests.builders import make_group, make_prompt, make_rollouts


def frames(prompt, view):
    return (40, 20), (80, 40) if view is None else (20, 10)


def test_a_file_holds_every_view_and_response(tmp_path: Path) -> None:
    visible, infrared = (ImageRef(f"{name}.png", (40, 20)) for name in ("visible", "infrared"))
    prompt = make_prompt("a", [visible, infrared], ["visible", "infrared"], "<image><image>Where?")
    scored = RewardResult(0.5, 0.25, {"format": 0.75, "iou": 0.25})
    failed = RewardResult(float("nan"), 0.0, {"iou": float("inf")}, failed="ValueError: odd")
    item = PromptRollouts(
        prompt,
        make_group("a", None, [scored, scored], ["one", "two\x1b[2J\ud800"]),
        (make_group("a", ("infrared",), [failed], "three"),),
    )
    RolloutFiles(tmp_path / "rollouts", frames).log_rollouts([item], 10)
    path = tmp_path / "rollouts" / "step_000010.jsonl"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path.read_bytes().isascii()
    assert "\x1b" not in path.read_text()
    (record,) = map(json.loads, path.read_text().splitlines())
    assert (record["step"], record["prompt_id"], record["row"]) == (10, "a", "rows.jsonl:a")
    assert record["question"] == [{"role": "user", "text": "<image><image>Where?"}]
    image = record["sources"][1]["image"]
    assert ImageRef(**{**image, "size": tuple(image["size"])}) == prompt.sources[1].image
    multi, infrared = record["views"]
    assert (record["truth_size"], multi["response_size"], infrared["response_size"]) == ([40, 20], [80, 40], [20, 10])
    assert [response["text"] for response in multi["responses"]] == ["one", "two\x1b[2J\ud800"]
    assert multi["view"] is None
    assert multi["responses"][1] == {
        "index": 1,
        "text": "two\x1b[2J\ud800",
        "score": 0.5,
        "accuracy": 0.25,
        "parts": {"format": 0.75, "iou": 0.25},
        "failed": None,
        "length": 2,
        "finish_reason": "stop",
    }
    assert infrared["view"] == ["infrared"]
    assert infrared["responses"][0]["score"] is None
    assert infrared["responses"][0]["parts"] == {"iou": None}
    assert infrared["responses"][0]["failed"] == "ValueError: odd"


def test_a_step_done_again_replaces_its_file(tmp_path: Path) -> None:
    files = RolloutFiles(tmp_path, frames)
    files.log_rollouts([make_rollouts("a", [0.5], text="old", visible=[0.5])], 1)
    files.log_rollouts([make_rollouts("a", [0.5], text="new", visible=[0.5])], 1)
    assert "old" not in (tmp_path / "step_000001.jsonl").read_text()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "step_000001.jsonl").mkdir()  # os.replace cannot put a file here
    with pytest.raises(OSError, match="step_000001"):
        RolloutFiles(tmp_path, frames).log_rollouts([make_rollouts("a", [0.5], visible=[0.5])], 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000001.jsonl"]


def test_the_sample_depends_on_step_and_prompt_ids_alone() -> None:
    rollouts = [make_rollouts(str(number), [0.5], visible=[0.5]) for number in range(30)]
    shuffled = random.Random(3).sample(rollouts, 30)
    chosen = [[item.prompt.prompt_id for item in sample_prompts(order, 4, 7)] for order in (rollouts, shuffled)]
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 4
    samples = {tuple(item.prompt.prompt_id for item in sample_prompts(rollouts, 4, step)) for step in range(20)}
    assert len(samples) > 15  # other steps, other prompts
    assert len(sample_prompts(rollouts[:2], 4, 1)) == 2
