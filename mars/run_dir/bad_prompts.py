"""Records the prompts that are left out of a run because they cannot be read, with one event for each."""

from __future__ import annotations

from pathlib import Path

from mars.quarantine import BadPrompt, warn_of
from mars.run_dir.events import EventLog, read_events


class BadPromptEvents:
    """A `BadPromptReport`. Records each prompt once in a run, even if a resumed run repeats the step that found it."""

    def __init__(self, events: EventLog, run_dir: Path) -> None:
        self._events = events
        noted = (entry for entry in read_events(run_dir) if entry["event"] == "prompt_quarantined")
        self._noted = {entry["details"].get("prompt_id") for entry in noted}

    def __call__(self, prompt: BadPrompt, row: str, step: int) -> None:
        warn_of(prompt, row, step)
        if prompt.prompt_id not in self._noted:
            self._noted.add(prompt.prompt_id)
            self._events.log("prompt_quarantined", step, prompt_id=prompt.prompt_id, row=row, reason=prompt.reason)
