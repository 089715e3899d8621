"""Syn-GRPO: train on rows that another program makes, during the run, from the policy's own descriptions.

recipe.sampler:   recipe/syn_grpo/functions.py:GrowingSet         reads new rows, and writes descriptions
recipe.advantage: recipe/syn_grpo/functions.py:DescriptionReward  rewards descriptions whose rows get diverse answers
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from statistics import pvariance
from typing import Any

from mars.algorithms.advantages import Advantages
from mars.data.order.stream import PromptStream
from mars.data.order.walk import Place, walk
from mars.hooks.contract import SamplerSetup, StepFacts
from mars.output.files import write_atomically
from mars.rewards.parsing import read_each
from mars.types import Prompt, PromptRollouts

PARENT = "made_from"
"""extra_info of a new row: the id of the prompt whose response described it."""
WANTED = "wanted"
# With another selection, the rule would not get rows whose answers are all alike.
NEEDS = {"algorithm.selection": "all", "data.weights": None}


@dataclass(frozen=True)
class Settings:
    """folder: where new files of rows appear; descriptions are written to its folder "wanted".

    share: of new rows among a step's prompts, if there are enough. files_per_round: largest number of new
    files that are read before a round. weight: of the reward for a description. decay: of the running means.
    """

    folder: str
    share: float
    files_per_round: int
    weight: float
    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.decay < 1 or self.files_per_round < 1:
            raise ValueError("want share in [0, 1], decay in [0, 1) and files_per_round of 1 or more")


class GrowingSet:
    """Up to `share` of a round's prompts are random new rows; the others are the next ones of the training files."""

    def __init__(self, setup: SamplerSetup, settings: Settings) -> None:
        self.setup, self.settings = setup, settings
        self.given = PromptStream([one for prompts in setup.sets for one in prompts], 1, setup.seed, setup.shuffle)
        self.files, self.new, self.place = list[str](), list[Prompt](), Place()  # place: in the training files

    def batch(self, round: int, left_out: frozenset[str]) -> Sequence[Prompt]:
        for name in appeared(self.settings.folder, self.files)[: self.settings.files_per_round]:
            self._read(name)
        size = self.setup.prompts_per_step
        readable = [prompt for prompt in self.new if prompt.prompt_id not in left_out]
        chosen = sorted(readable, key=lambda p: self._draw(round, p))[: int(self.settings.share * size)]
        given, self.place = walk(self.given, self.place, size - len(chosen), left_out)
        # Sorted by a hash, so that each update has its share of both.
        return sorted([*chosen, *given], key=lambda p: self._draw(round, p))

    def probes(self, step: int) -> Sequence[Prompt]:
        return ()

    def observe(self, rollouts: Sequence[PromptRollouts], step: int) -> Mapping[str, float]:
        lines = [
            json.dumps({PARENT: item.prompt.prompt_id, "row": item.prompt.row, "description": text}) + "\n"
            for item in rollouts
            for one in item.multi.valid
            if (text := description_of(one.text)) is not None
        ]
        if lines:
            write_atomically(Path(self.settings.folder, WANTED, f"step_{step:06}.jsonl"), "".join(lines))
        return {"descriptions": len(lines)}

    def state(self) -> Mapping[str, Any]:
        return {"files": self.files, "position": self.place.position, "waiting": list(self.place.waiting)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.files, self.new, self.place = [], [], Place(state["position"], tuple(state["waiting"]))
        for name in state["files"]:
            self._read(name)

    def _read(self, name: str) -> None:
        self.files.append(name)
        self.new += self.setup.read_rows(str(Path(self.settings.folder, name)))

    def _draw(self, round: int, prompt: Prompt) -> bytes:
        return blake2b(f"{self.setup.seed}:{round}:{prompt.prompt_id}".encode(), digest_size=16).digest()


def appeared(folder: str, known: Sequence[str]) -> list[str]:
    """The names of new row files in `folder`, sorted. A file whose name begins with a dot is not complete yet."""
    paths = (path for kind in ("*.jsonl", "*.parquet") for path in Path(folder).glob(kind))
    return sorted({path.name for path in paths if not path.name.startswith(".")} - set(known))


def description_of(text: str) -> str | None:
    """The only description in a response; None if there is none, an empty one, or more than one."""
    found = [one.strip() for one in read_each(text, "description")]
    return found[0] if len(found) == 1 and found[0] else None


class DescriptionReward:
    """Adds `weight` * (d(x) - m) to the advantage of a response to prompt x, if the response has a description.

    d(x): running mean of `diversity` over the rows made from x. m: the same over the rows made from any prompt.
    """

    ramps = ("weight", "decay")

    def __init__(self) -> None:
        self.diversity: dict[str, float] = {}
        self.mean: float | None = None

    def __call__(self, base: Advantages, kept: Sequence[PromptRollouts], facts: StepFacts) -> Advantages:
        found = [(item, diversity(item)) for item in kept if item.prompt.extra_info.get(PARENT) and item.multi.valid]
        for item, value in found:
            parent = str(item.prompt.extra_info[PARENT])
            self.diversity[parent] = smoothed(self.diversity.get(parent), value, facts.settings.decay)
        if found:
            self.mean = smoothed(self.mean, sum(value for _, value in found) / len(found), facts.settings.decay)
        amounts = []
        for item in kept:
            above = self.diversity.get(item.prompt.prompt_id, self.mean or 0.0) - (self.mean or 0.0)
            amounts += [facts.settings.weight * above * (description_of(one.text) is not None) for one in item.trained]
        return replace(base, values=base.values + base.values.new_tensor(amounts))

    def state(self) -> Mapping[str, Any]:
        return {"diversity": self.diversity, "mean": self.mean}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.diversity, self.mean = dict(state["diversity"]), state["mean"]


def diversity(item: PromptRollouts) -> float:
    """The variance of the accuracy over a prompt's multi responses that could be scored, in [0, 1/4]."""
    return pvariance([one.reward.accuracy for one in item.multi.valid])


def smoothed(before: float | None, value: float, decay: float) -> float:
    return value if before is None else decay * before + (1 - decay) * value
