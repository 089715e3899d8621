"""Make the requests of a step: for every prompt one multi request, followed by its anchor requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from mars.types import ImageRef, Prompt, RolloutRequest, Sampling, View

EncodeView = Callable[[Prompt, View], tuple[tuple[int, ...], tuple[ImageRef, ...]]]
"""(prompt, view) -> (prompt ids with one placeholder per image, images of the view)."""


@dataclass(frozen=True)
class RolloutPlan:
    """What to sample for every prompt.

    multi_samples: responses to the multi view (G). anchor_samples: responses to each anchor view (m).
    anchor_views: prompt -> its anchor views. encode: (prompt, view) -> prompt ids and images.
    seed: seed of the run. A request's seed is a hash of it with step, prompt and view.
    """

    multi_samples: int
    anchor_samples: int
    multi_sampling: Sampling
    anchor_sampling: Sampling
    anchor_views: Callable[[Prompt], tuple[View, ...]]
    encode: EncodeView
    seed: int

    def requests(self, prompts: Sequence[Prompt], step: int) -> list[RolloutRequest]:
        """The requests of all prompts in order: each prompt's multi view, then its anchor views."""
        return [request for prompt in prompts for request in self._prompt_requests(prompt, step)]

    def of_probes(self) -> RolloutPlan:
        """The plan of probes: multi views alone. Their seeds differ from those of the same prompts in the same step."""
        seed = int.from_bytes(blake2b(f"probes:{self.seed}".encode(), digest_size=6).digest(), "big")
        return replace(self, anchor_views=_no_views, seed=seed)

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


def _no_views(prompt: Prompt) -> tuple[View, ...]:
    return ()


def request_seed(run_seed: int, step: int, prompt_id: str, view: View) -> int:
    """48-bit seed of a request. Sample k uses seed + k.

    All samples of a step get different seeds in practice: with a million samples, two are equal with probability 0.2 %.
    """
    key = repr((run_seed, step, prompt_id, view)).encode()
    return int.from_bytes(blake2b(key, digest_size=6).digest(), "big")
