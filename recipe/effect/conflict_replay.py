"""Conflict replay: a prompt is drawn again if, when last sampled, an anchor was right and no multi response was.

recipe.sampler: recipe/effect/conflict_replay.py:ConflictReplay
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mars.algorithms.prompt_factors import is_in_conflict, is_unsolved
from mars.data.order.stream import PromptStream
from mars.data.order.walk import Place, walk
from mars.hooks.contract import SamplerSetup
from mars.hooks.sampler_tools import PromptTable
from mars.types import Prompt, PromptRollouts

# The control (look: multi) needs anchors too, so that it has the same cost.
NEEDS = {"data.weights": None, "anchor.kind": ("mono", "all_but_one")}


@dataclass(frozen=True)
class Settings:
    """share: largest share of a round that is drawn again. right_from: accuracy from which a response is right.

    look: "anchors" draws a prompt again if an anchor was right and no multi response was. "multi", the control, draws
    it again if no multi response was right, whatever the anchors were.
    """

    share: float
    right_from: float
    look: Literal["anchors", "multi"]

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 < self.right_from <= 1:
            raise ValueError("want share in [0, 1] and right_from in (0, 1]")


class ConflictReplay:
    """_waiting: ids of the prompts to draw again, in the order in which they will be drawn.

    _drawn: ids of those that were drawn since the last `observe`.
    """

    def __init__(self, setup: SamplerSetup, settings: Settings) -> None:
        self._setup, self._settings = setup, settings
        self._table = PromptTable(setup)
        self._stream = PromptStream(self._table.prompts, 1, setup.seed, setup.shuffle)
        self.restore({"waiting": [], "drawn": [], "position": 0, "turns": []})

    def batch(self, round: int, left_out: frozenset[str]) -> list[Prompt]:
        """Waiting prompts, of which the longest waiting are taken first, mixed evenly with the next prompts of the
        training order (shuffled unless `data.shuffle=false`)."""
        size = self._setup.prompts_per_step
        for name in left_out:  # cannot be read, so it would wait for ever
            self._waiting.pop(name, None)
        open_ = [name for name in self._waiting if name not in self._drawn]
        again = open_[: int(self._settings.share * size + 1e-9)]  # 0.29 * 100 is 28.999...
        self._drawn.update(again)
        rest, self._place = walk(self._stream, self._place, size - len(again), {*left_out, *again})
        return spread([self._table.prompts[place] for place in self._table.places(again) if place is not None], rest)

    def probes(self, step: int) -> Sequence[Prompt]:
        return ()

    def observe(self, rollouts: Sequence[PromptRollouts], step: int) -> Mapping[str, float]:
        again = [item for item in rollouts if item.prompt.prompt_id in self._drawn]
        for item in rollouts:
            waited = item.prompt.prompt_id in self._waiting
            self._waiting.pop(item.prompt.prompt_id, None)
            # If no response was scored, nothing new is known: a prompt that waited goes on waiting.
            if self._waits(item) if item.multi.valid else waited:
                self._waiting[item.prompt.prompt_id] = None  # behind all others
        self._drawn.clear()
        metrics = {"waiting": float(len(self._waiting)), "again": len(again) / len(rollouts) if rollouts else 0.0}
        if again:
            solved = [not is_unsolved(item, self._settings.right_from) for item in again]
            metrics["solved"] = sum(solved) / len(again)
        return metrics

    def state(self) -> Mapping[str, Any]:
        place = {"position": self._place.position, "turns": list(self._place.waiting)}
        return {"waiting": list(self._waiting), "drawn": sorted(self._drawn)} | place

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state, without prompts that are no longer in the data."""
        known = {prompt.prompt_id for prompt in self._table.prompts}
        self._waiting = dict.fromkeys(name for name in state["waiting"] if name in known)
        self._drawn = set(state["drawn"]) & known
        self._place = Place(state["position"], tuple(state["turns"]))

    def _waits(self, item: PromptRollouts) -> bool:
        found = is_in_conflict if self._settings.look == "anchors" else is_unsolved
        return found(item, self._settings.right_from)


def spread(some: Sequence[Prompt], others: Sequence[Prompt]) -> list[Prompt]:
    """Both sequences in their own order, mixed evenly, so that each update of a step has its share of both.

    Example: [a, b] and [1, 2, 3, 4, 5, 6] -> [1, a, 2, 3, 4, b, 5, 6].
    """
    places = [((i + 0.5) / len(part), which) for which, part in enumerate((some, others)) for i in range(len(part))]
    parts = iter(some), iter(others)
    return [next(parts[which]) for _, which in sorted(places)]
