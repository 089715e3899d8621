"""Logs why a response failed after its reward had given it a score: because of a shaping or a penalty."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mars.algorithms.penalties import groups
from mars.types import PromptRollouts

logger = logging.getLogger(__name__)


class FailedScores:
    """Logs each source of failures once. `reward/failed` counts the responses."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def noted(self, source: str, before: Sequence[PromptRollouts], after: list[PromptRollouts]) -> list[PromptRollouts]:
        """Returns `after` as it is, and logs the first response that has failed only there.

        before, after: the same responses before and after `add_to_scores` has added an amount to their scores.
        source: the setting that adds the amounts and, if there are several, which entry of it.
        """
        if source not in self._logged and (found := _first_failed(before, after)) is not None:
            self._logged.add(source)
            row, reason = found
            logger.error("%s: %s for a response to %s; the sample is masked; this is logged once", source, reason, row)
        return after


def _first_failed(before: Sequence[PromptRollouts], after: Sequence[PromptRollouts]) -> tuple[str, str] | None:
    """(row, reason) of the first response that has failed only in `after`."""
    for old_item, new_item in zip(before, after, strict=True):
        for old_group, new_group in zip(groups(old_item), groups(new_item), strict=True):
            for old, new in zip(old_group.rollouts, new_group.rollouts, strict=True):
                if old.valid and new.reward.failed is not None:
                    return new_item.prompt.row, new.reward.failed
    return None
