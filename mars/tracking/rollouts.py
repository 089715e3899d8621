"""Sampled rollouts as JSON Lines: rollouts/step_000010.jsonl, one prompt per line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mars.output.files import replacing
from mars.tracking.jsonl import finite_or_none, to_line
from mars.types import ImageRef, Prompt, PromptRollouts, RolloutGroup, View

ROLLOUTS_FOLDER = "rollouts"

Size = tuple[int, int]
BoxFrames = Callable[[Prompt, View], tuple[Size | None, Size | None]]
"""(prompt, view) -> (truth_size, response_size) as in `mars.types.RewardInput`: the frames boxes are written in."""


def sample_prompts(rollouts: Sequence[PromptRollouts], count: int, step: int) -> list[PromptRollouts]:
    """`count` of the prompts, chosen by hash of (step, prompt_id): the same ones in whatever order they came."""

    def rank(item: PromptRollouts) -> bytes:
        return hashlib.sha256(f"{step}/{item.prompt.prompt_id}".encode()).digest()

    return sorted(rollouts, key=rank)[:count]


class RolloutFiles:
    """Writes the prompts it is given, each with every view and response, to <folder>/step_<step>.jsonl.

    A file exists wholly or not at all; a step done again after a resume replaces its file. Raises OSError.
    """

    def __init__(self, folder: Path, frames: BoxFrames) -> None:
        self._folder = folder
        self._frames = frames

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics have a file of their own."""

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        with replacing(self._folder / f"step_{step:06d}.jsonl") as draft:
            draft.write_bytes(b"".join(to_line(self._record(item, step)) for item in rollouts))

    def close(self) -> None:
        """Every file is complete already."""

    def _record(self, item: PromptRollouts, step: int) -> dict[str, Any]:
        prompt = item.prompt
        return {
            "step": step,
            "prompt_id": prompt.prompt_id,
            "row": prompt.row,
            "data_source": prompt.data_source,
            "question": [{"role": message.role, "text": message.text} for message in prompt.messages],
            "sources": [{"name": source.name, "image": _image(source.image)} for source in prompt.sources],
            "truth": prompt.truth,
            "truth_size": self._frames(prompt, None)[0],
            "views": [self._view(prompt, group) for group in (item.multi, *item.anchors)],
        }

    def _view(self, prompt: Prompt, group: RolloutGroup) -> dict[str, Any]:
        view = group.request.view
        return {
            "view": view,
            "response_size": self._frames(prompt, view)[1],
            "responses": [
                {
                    "index": rollout.index,
                    "text": rollout.text,
                    "score": finite_or_none(rollout.reward.score),
                    "accuracy": finite_or_none(rollout.reward.accuracy),
                    "parts": {name: finite_or_none(value) for name, value in rollout.reward.parts.items()},
                    "failed": rollout.reward.failed,
                    "length": len(rollout.completion.token_ids),
                    "finish_reason": rollout.completion.finish_reason,
                }
                for rollout in group.rollouts
            ],
        }


def _image(image: ImageRef) -> dict[str, Any]:
    """What `ImageRef(**...)` takes, with the size as a list."""
    return {
        "path": image.path,
        "size": image.size,
        "encoding": image.encoding,
        "row": image.row,
        "slot": image.slot,
    }
