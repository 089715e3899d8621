"""What an extra request of a recipe is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["signal", "own_group", "guest"]


@dataclass(frozen=True)
class ExtraFacts:
    """Role, truth and treatment of an extra request (mars/hooks/requests.py).

    role: signal: its responses are not used for training. own_group: trained with its own prompt and its own
        advantages. guest: trained with the multi prompt, among the multi rollouts.
    truth: what its responses are scored against; None: they are not scored.
    about: number of the rollout that the request is about, among the rollouts of the view that the request belongs to;
        None: the request is about the prompt.
    bounded: of a guest: whether the ratio of its tokens is bounded (`TrainResponse.bounded`).
    in_pool: of a guest: whether its reward counts in the mean and the deviation from which advantages are computed.
    injected: whether the response is a given text, which no engine has sampled. score: given with the text, else None.
    of_anchor: of a guest: whether its rollouts are also in an anchor group (`anchor.guide`).
    """

    name: str
    role: Role
    truth: str | None
    about: int | None = None
    bounded: bool = False
    injected: bool = False
    score: float | None = None
    in_pool: bool = True
    of_anchor: bool = False
