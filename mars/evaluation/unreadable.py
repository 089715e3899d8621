"""Questions whose images cannot be read when they are asked: left out of all numbers, named and counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from mars.errors import DataError
from mars.quarantine import num_allowed
from mars.types import Prompt

logger = logging.getLogger(__name__)


def left_out(prompts: Sequence[Prompt], reasons: Mapping[str, str], max_fraction: float) -> dict[str, str]:
    """Prompt id -> "row: reason", of the questions that are left out; each is logged.

    reasons: prompt id -> why it cannot be read. max_fraction: `data.max_bad_fraction`.
    Raises DataError if more questions cannot be read than `num_allowed` gives, or if none can be read.
    """
    found = {prompt.prompt_id: f"{prompt.row}: {reasons[prompt.prompt_id]}"
             for prompt in prompts if prompt.prompt_id in reasons}  # fmt: skip
    for text in found.values():
        logger.warning("%s; the question is left out", text)
    allowed = num_allowed(max_fraction, len(prompts))
    if found and (len(found) > allowed or len(found) == len(prompts)):
        raise DataError(
            f"data.eval_files: {len(found)} of {len(prompts)} questions cannot be read, and "
            f"data.max_bad_fraction={max_fraction:g} allows {allowed}; the last: {list(found.values())[-1]}; "
            "restore the images, or raise data.max_bad_fraction"
        )
    return found
