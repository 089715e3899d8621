"""What the pool and a worker process tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mars.rewards.contract import ScorerName
from mars.rewards.functions import RewardSpec
from mars.rewards.local import Scored


@dataclass(frozen=True)
class WorkerSettings:
    """timeout_s: deadline of one call of the reward function. concurrency: calls that one process runs at once.

    by_prompt: whether a user's function takes all answers to a prompt at once, as a list.
    """

    spec: RewardSpec
    scorer: ScorerName
    timeout_s: float
    concurrency: int
    by_prompt: bool


@dataclass(frozen=True)
class Call:
    """One call of the reward function. payloads: the pickled RewardInputs, one unless `by_prompt`."""

    number: int
    payloads: tuple[bytes, ...]


@dataclass(frozen=True)
class Done:
    """The end of a call. scored: a `Scored` for each payload; None if the call missed its deadline.

    After a missed deadline, the thread of the call still runs.

    counts: what the process has counted since its last message (mars/rewards/call_facts.py).
    """

    number: int
    scored: tuple[Scored, ...] | None
    counts: Mapping[str, float]
