from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from mars.answers.files import read_answers
from mars.errors import SetupError
from mars.tracking.rollouts import RolloutFiles, sample_prompts
from mars.types import ImageRef, PromptRollouts, RewardResult
from tests.builders import make_group, make_prompt, make_rollouts


def frames(prompt, view):
    return (40, 20), (80, 40) if view is None else (20, 10)


def prompt_length(request):
    return len(request.prompt_token_ids)


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
    RolloutFiles(tmp_path / "rollouts", frames, prompt_length).log_rollouts([item], 10)
    path = tmp_path / "rollouts" / "step_000010.jsonl"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path.read_bytes().isascii()
    assert "\x1b" not in path.read_text()
    multi, other, infrared = map(json.loads, path.read_text().splitlines())
    assert (multi["step"], multi["prompt_id"], multi["row"], multi["number"]) == (10, "a", "rows.jsonl:a", 0)
    assert multi["question"] == [{"role": "user", "text": "<image><image>Where?"}]
    image = multi["sources"][1]["image"]
    assert ImageRef(**{**image, "size": tuple(image["size"])}) == prompt.sources[1].image
    assert (multi["truth_size"], multi["response_size"], infrared["response_size"]) == ([40, 20], [80, 40], [20, 10])
    assert [(record["view"], record["sample"]) for record in (multi, other, infrared)] == [
        (None, 0), (None, 1), (["infrared"], 0)
    ]  # fmt: skip
    assert (multi["text"], other["text"]) == ("one", "two\x1b[2J\ud800")
    assert (other["response_tokens"], other["prompt_tokens"], other["finish_reason"]) == (2, 3, "stop")
    assert other["reward"] == {
        "score": 0.5, "accuracy": 0.25, "parts": {"format": 0.75, "iou": 0.25}, "failed": None
    }  # fmt: skip
    assert infrared["reward"] == {
        "score": None, "accuracy": 0.0, "parts": {"iou": None}, "failed": "ValueError: odd"
    }  # fmt: skip


def test_a_prompt_that_a_step_samples_twice_is_one_question_with_more_samples(tmp_path: Path) -> None:
    """As where the second round of dynamic sampling begins the next epoch."""
    rollouts = [make_rollouts(name, [0.5, 1.0], visible=[0.5]) for name in ("a", "b", "a")]
    RolloutFiles(tmp_path, frames, prompt_length).log_rollouts(rollouts, 3)
    answers = read_answers(tmp_path / "step_000003.jsonl").checked()
    assert [(a.prompt_id, a.number, a.sample) for a in answers if a.view is None] == [
        ("a", 0, 0), ("a", 0, 1), ("a", 0, 2), ("a", 0, 3), ("b", 1, 0), ("b", 1, 1)
    ]  # fmt: skip


def test_a_step_done_again_replaces_its_file(tmp_path: Path) -> None:
    files = RolloutFiles(tmp_path, frames, prompt_length)
    files.log_rollouts([make_rollouts("a", [0.5], text="old", visible=[0.5])], 1)
    files.log_rollouts([make_rollouts("a", [0.5], text="new", visible=[0.5])], 1)
    assert "old" not in (tmp_path / "step_000001.jsonl").read_text()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "step_000001.jsonl").mkdir()  # os.replace cannot put a file here
    with pytest.raises(SetupError, match="step_000001"):
        RolloutFiles(tmp_path, frames, prompt_length).log_rollouts([make_rollouts("a", [0.5], visible=[0.5])], 1)
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
