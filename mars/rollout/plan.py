"""Which responses a step asks for: one multi request and the anchor requests of every prompt, neighbours of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from mars.types import ImageRef, Prompt, RolloutRequest, Sampling, View

EncodeView = Callable[[Prompt, View], tuple[tuple[int, ...], tuple[ImageRef, ...]]]
"""A view of a prompt as (prompt ids with one placeholder per image, its images)."""


@dataclass(frozen=True)
class RolloutPlan:
    """What is sampled for every prompt.

    multi_samples: responses to the multi view (G). anchor_samples: responses to each anchor view (m).
    anchor_views: the anchor views of a prompt. encode: makes the prompt ids of a view.
    seed: of the run; with step, prompt and view it gives every request its own seed.
    """

    multi_samples: int
    anchor_samples: int
    multi_sampling: Sampling
    anchor_sampling: Sampling
    anchor_views: Callable[[Prompt], tuple[View, ...]]
    encode: EncodeView
    seed: int

    def requests(self, prompts: Sequence[Prompt], step: int) -> list[RolloutRequest]:
        """For each prompt its multi view, then its anchor views, in order."""
        return [request for prompt in prompts for request in self._prompt_requests(prompt, step)]

    def _prompt_requests(self, prompt: Prompt, step: int) -> list[RolloutRequest]:
        multi = self._request(prompt, None, step, self.multi_samples, self.multi_sampling)
        return [
            multi,
            *(
                self._request(prompt, view, step, self.anchor_samples, self.anchor_sampling)
                for view in self.anchor_views(prompt)
            ),
        ]

    def _request(self, prompt: Prompt, view: View, step: int, num_samples: int, sampling: Sampling) -> RolloutRequest:
        token_ids, images = self.encode(prompt, view)
        return RolloutRequest(
            prompt_id=prompt.prompt_id,
            view=view,
            prompt_token_ids=token_ids,
            images=images,
            num_samples=num_samples,
            seed=request_seed(self.seed, step, prompt.prompt_id, view),
            sampling=sampling,
        )


def request_seed(run_seed: int, step: int, prompt_id: str, view: View) -> int:
    """48-bit seed of a request. Sample k uses seed + k, so samples of one request and of different ones all differ
    (two of a million samples share a seed with probability 0.2 %)."""
    key = repr((run_seed, step, prompt_id, view)).encode()
    return int.from_bytes(blake2b(key, digest_size=6).digest(), "big")
