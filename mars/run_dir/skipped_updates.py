"""skipped_updates/: one JSON file for each update that was skipped because its loss or gradient was not finite.

Only the newest `_KEPT` files are kept. Example:

    {"step": 12, "update": 0, "num_updates": 2, "loss": NaN, "grad_norm": NaN, "prompts": [{
        "prompt_id": "3f...", "view": "multi", "carried": false, "images": ["a.png"], "prompt_token_ids": [1, ...],
        "responses": [{"token_ids": [5, 9], "mask": [1, 1], "advantage": 0.7, "weight": 1.0, "off_policy": false,
                       "bounded": false, "rollout_logprobs": [-0.5, -1.0], "old_logprobs": [-0.5, NaN]}]}]}

mask: 1 for the tokens of responses with a weight above 0, even if algorithm.importance_mode=mask leaves a token out of
the loss. old_logprobs: the trainer's, before the step's first update; null for a response that was not trained on.
Numbers that are not finite are written as in Python's json: NaN, Infinity.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mars.actor.trainer import SkippedUpdate
from mars.data.pixels.stored import Place
from mars.errors import SetupError
from mars.output.files import write_atomically
from mars.run_dir.events import EventLog
from mars.train_types import TrainBatch, TrainPrompt

logger = logging.getLogger(__name__)

SKIPPED_FOLDER = "skipped_updates"
_KEPT = 8
_NAME = re.compile(r"step_([0-9]{6,})_update_([0-9]+)\.json")


class SkippedUpdateFiles:
    """Writes the newest skipped updates of a run to `folder`, and reports them in the log and in `events`."""

    def __init__(self, folder: Path, events: EventLog) -> None:
        self._folder, self._events = folder, events

    def write(self, batch: TrainBatch, skipped: Sequence[SkippedUpdate], step: int) -> None:
        """Write the batch of each skipped update to a file (a `SkippedReport`). If this fails, log it as a warning."""
        for update in skipped:
            path = self._folder / f"step_{step:06d}_update_{update.update}.json"
            where = f"its batch is in {path}"
            try:
                write_atomically(path, json.dumps(content_of(batch, update, step)))
                self._remove_old(path)
            except (SetupError, OSError) as error:
                where = f"its batch is lost: {error}"
            logger.warning("step %d: update %d of %d was skipped on all ranks: loss %s, gradient norm %s; %s", step,
                           update.update + 1, len(batch.updates), update.loss, update.grad_norm, where)  # fmt: skip
            loss, norm = str(update.loss), str(update.grad_norm)  # as text: JSON has no NaN
            self._events.log("update_skipped", step, update=update.update, loss=loss, grad_norm=norm, file=str(path))

    def _remove_old(self, written: Path) -> None:
        """Keep `written` and the newest other files, _KEPT in all.

        The newest by time, not by step: after a resume, files of later steps may be older than `written`.
        """
        others = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name) and path != written]
        for path in sorted(others, key=_age)[: -(_KEPT - 1)]:
            path.unlink(missing_ok=True)


def content_of(batch: TrainBatch, skipped: SkippedUpdate, step: int) -> dict[str, Any]:
    """The content of an update's file."""
    rows: dict[int, list[int]] = {}
    for p, k in batch.updates[skipped.update].rows:
        rows.setdefault(p, []).append(k)
    return {
        "step": step,
        "update": skipped.update,
        "num_updates": len(batch.updates),
        "loss": skipped.loss,
        "grad_norm": skipped.grad_norm,
        "prompts": [_prompt(batch.prompts[p], p, ks, skipped.old_logprobs) for p, ks in rows.items()],
    }


def _prompt(
    prompt: TrainPrompt, p: int, ks: Sequence[int], old: Mapping[tuple[int, int], tuple[float, ...]]
) -> dict[str, Any]:
    return {
        "prompt_id": prompt.prompt_id,
        "view": "multi",  # the only view that is trained on
        "carried": prompt.carried,
        "images": [Place.of(image).name for image in prompt.images],
        "prompt_token_ids": prompt.prompt_token_ids,
        "responses": [
            {
                "token_ids": response.token_ids,
                "mask": [int((p, k) in old)] * len(response.token_ids),
                "advantage": response.advantage,
                "weight": response.weight,
                "off_policy": response.off_policy,
                "bounded": response.bounded,
                "rollout_logprobs": response.rollout_logprobs,
                "old_logprobs": old.get((p, k)),
            }
            for k in ks
            for response in [prompt.responses[k]]
        ],
    }


def _age(path: Path) -> tuple[int, int, int]:
    """(time, step, update) of a file: newer files compare greater."""
    match = _NAME.fullmatch(path.name)
    assert match is not None  # only such files are asked for
    return path.stat().st_mtime_ns, int(match[1]), int(match[2])
