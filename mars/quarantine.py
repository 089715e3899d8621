"""Prompts whose images cannot be read. Each is left out of the rest of the run; too many of them end the run.

Images are checked before a run, but may be lost while it trains. The quarantine is part of a run's state, so a
resumed run leaves out the same prompts.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mars.errors import DataError
from mars.types import Prompt

logger = logging.getLogger(__name__)

_ROUNDING = 1e-9  # 0.29 * 100 is a little less than 29


@dataclass(frozen=True)
class BadPrompt:
    """number: its place among the prompts that the run has tried, from 1; for a prompt of `Quarantine.with_lost`, how
    many the run had tried when it was found. reason: why it is bad, with the image's name."""

    prompt_id: str
    number: int
    reason: str


BadPromptReport = Callable[[BadPrompt, str, int], None]
"""Called with the prompt, its row ("file:row") and the step in which it was found."""


@dataclass(frozen=True)
class Quarantine:
    """tried: number of prompts that the run has tried to sample. bad: those of them that are left out from now on."""

    tried: int = 0
    bad: tuple[BadPrompt, ...] = ()

    @property
    def prompt_ids(self) -> frozenset[str]:
        return frozenset(prompt.prompt_id for prompt in self.bad)

    def after(self, prompts: Sequence[Prompt], unreadable: Mapping[str, str]) -> Quarantine:
        """The quarantine after `prompts` were tried. unreadable: prompt id -> reason, for prompts that could not be
        read.

        Example: after 7 good prompts, a and b are tried, and b cannot be read: b is bad, with number 9.
        """
        numbered = enumerate((prompt.prompt_id for prompt in prompts), self.tried + 1)
        new = [BadPrompt(name, number, unreadable[name]) for number, name in numbered if name in unreadable]
        return Quarantine(self.tried + len(prompts), (*self.bad, *new))

    def with_lost(self, unreadable: Mapping[str, str]) -> Quarantine:
        """This quarantine, plus the sampled prompts whose images the trainer could not read later."""
        known = self.prompt_ids
        lost = [BadPrompt(name, self.tried, reason) for name, reason in unreadable.items() if name not in known]
        return Quarantine(self.tried, (*self.bad, *lost))

    def followed_by(self, later: Quarantine) -> Quarantine:
        """This quarantine, plus the bad prompts that only `later` has.

        later: of a sampling that began before the newest bad prompts of this quarantine were found, so it may have
        found some of them, too.
        """
        known = self.prompt_ids
        return Quarantine(later.tried, (*self.bad, *(prompt for prompt in later.bad if prompt.prompt_id not in known)))

    def most_in(self, window: int) -> int:
        """The largest number of bad prompts among `window` prompts that were tried one after the other."""
        numbers = [prompt.number for prompt in self.bad]
        return max((i + 1 - bisect_right(numbers, number - window) for i, number in enumerate(numbers)), default=0)


@dataclass(frozen=True)
class BadSamples:
    """Reports prompts that cannot be read, and ends the run if there are too many.

    max_fraction: `data.max_bad_fraction`. window: `data.bad_window`. prompts: the training set by ids.
    report: called once for each bad prompt.
    """

    max_fraction: float
    window: int
    prompts: Mapping[str, Prompt]
    report: BadPromptReport

    def tried(
        self, quarantine: Quarantine, prompts: Sequence[Prompt], unreadable: Mapping[str, str], step: int
    ) -> Quarantine:
        """The quarantine after `step` has tried `prompts`.

        unreadable: id -> reason, for those of `prompts` that the engine could not read.
        Raises DataError if more than `num_allowed` of any `window` prompts tried one after the other are bad, or if
        all prompts of the training set are bad.
        """
        return self._accepted(quarantine, quarantine.after(prompts, unreadable), step)

    def lost(self, quarantine: Quarantine, unreadable: Mapping[str, str], step: int) -> Quarantine:
        """`quarantine` plus the sampled prompts whose images the trainer could not read in `step`.

        Raises as `tried`.
        """
        return self._accepted(quarantine, quarantine.with_lost(unreadable), step)

    def joined(self, quarantine: Quarantine, later: Quarantine, step: int) -> Quarantine:
        """`quarantine.followed_by(later)`. Reports nothing, as both were reported before. Raises as `tried`."""
        joined = quarantine.followed_by(later)
        self._check(joined, joined.bad[len(quarantine.bad) :], step)
        return joined

    def _accepted(self, before: Quarantine, now: Quarantine, step: int) -> Quarantine:
        new = now.bad[len(before.bad) :]
        for prompt in new:
            self.report(prompt, self._row(prompt), step)
        self._check(now, new, step)
        return now

    def _check(self, now: Quarantine, new: Sequence[BadPrompt], step: int) -> None:
        window = min(self.window, len(self.prompts))
        most, allowed = now.most_in(window), num_allowed(self.max_fraction, window)
        if new and (most > allowed or len(now.bad) == len(self.prompts)):
            raise DataError(
                f"{self._row(new[-1])}: step {step}: {new[-1].reason}; with this prompt, {most} of {window} "
                f"consecutive prompts cannot be read, and data.max_bad_fraction={self.max_fraction:g} allows {allowed}"
                "; events.jsonl names them all; restore their images and resume the run, or raise data.max_bad_fraction"
            )

    def _row(self, prompt: BadPrompt) -> str:
        return self.prompts[prompt.prompt_id].row if prompt.prompt_id in self.prompts else prompt.prompt_id


def warn_of(prompt: BadPrompt, row: str, step: int) -> None:
    """A `BadPromptReport` that only logs."""
    logger.warning("%s: left out from step %d on: %s", row, step, prompt.reason)


def num_allowed(max_fraction: float, number: int) -> int:
    """How many of `number` samples may be bad. One is always allowed, unless the fraction is 0.

    >>> num_allowed(0.05, 1000), num_allowed(0.05, 8), num_allowed(0.0, 1000), num_allowed(0.29, 100)
    (50, 1, 0, 29)
    """
    return max(int(max_fraction * number + _ROUNDING), 1) if max_fraction > 0 else 0
