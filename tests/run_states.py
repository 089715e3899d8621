"""Reads the state of a run as a resumed run does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mars.checkpoint.state import RunState, stored_state, with_prompts
from mars.types import Prompt


def state_from_lines(lines: Iterable[bytes], prompts: Mapping[str, Prompt]) -> RunState:
    """lines: of state.json. prompts: the training set by ids."""
    return with_prompts(stored_state(lines), prompts)
