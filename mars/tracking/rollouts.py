"""Sampled rollouts of a run: rollouts/step_000010.jsonl, one answer per line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mars.answers.files import step_file, write_answers
from mars.answers.record import BoxFrames, PromptLength, answers_of
from mars.types import PromptRollouts

ROLLOUTS_FOLDER = "rollouts"


def sample_prompts(rollouts: Sequence[PromptRollouts], count: int, step: int) -> list[PromptRollouts]:
    """The `count` prompts with the smallest hash of (step, prompt_id)."""

    def rank(item: PromptRollouts) -> bytes:
        return hashlib.sha256(f"{step}/{item.prompt.prompt_id}".encode()).digest()

    return sorted(rollouts, key=rank)[:count]


class RolloutFiles:
    """A tracker: each call of `log_rollouts` writes its rollouts to one file, <folder>/step_000010.jsonl for step 10.

    Each file is written atomically. If a step is repeated after a resume, its file is replaced. Raises SetupError if a
    file cannot be written.
    """

    def __init__(self, folder: Path, frames: BoxFrames, prompt_length: PromptLength) -> None:
        self._folder = folder
        self._frames = frames
        self._prompt_length = prompt_length

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Does nothing: the metrics are written to metrics.jsonl (mars/tracking/jsonl.py)."""

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        answers = answers_of(rollouts, step, frames=self._frames, prompt_length=self._prompt_length)
        write_answers(step_file(self._folder, step), answers)

    def close(self) -> None:
        """Does nothing: every file is complete already."""
