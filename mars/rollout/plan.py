"""Make the requests of a step: for every prompt one multi request, its anchor requests, and a recipe's requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal

from mars.rollout.extras import ExtraPlan, PlannedRequests
from mars.rollout.seeds import request_seed
from mars.types import ImageRef, Prompt, PromptRollouts, RolloutRequest, Sampling, View

EncodeView = Callable[[Prompt, View], tuple[tuple[int, ...], tuple[ImageRef, ...]]]
"""(prompt, view) -> (prompt ids with one placeholder per image, images of the view)."""


@dataclass(frozen=True)
class RolloutPlan:
    """What to sample for every prompt.

    multi_samples: responses to the multi view (G). anchor_samples: responses to each anchor view (m).
    seed: of the run.
    extras: the extra requests of a recipe.
    allocation: `anchor.allocation`. Unless it is "even", `requests` ask for the first half of the multi responses, and
        `further` for the second half.
    start_of_source: source -> first tokens of the responses to its anchor view (`anchor.kind=forced_source`).
    """

    multi_samples: int
    anchor_samples: int
    multi_sampling: Sampling
    anchor_sampling: Sampling
    anchor_views: Callable[[Prompt], tuple[View, ...]]
    encode: EncodeView
    seed: int
    extras: ExtraPlan | None = None
    allocation: Literal["even", "conflict", "unsolved"] = "even"
    start_of_source: Callable[[str], tuple[int, ...]] | None = None

    @property
    def first_samples(self) -> int:
        """Multi responses to each prompt in the first engine call: all G, or the larger half, ceil(G / 2)."""
        return self.multi_samples - (0 if self.allocation == "even" else self.multi_samples // 2)

    def requests(self, prompts: Sequence[Prompt], step: int) -> list[RolloutRequest]:
        """The engine's requests of all prompts in order: each prompt's multi view, its anchor views, its extra
        requests."""
        return list(self.planned(prompts, step).requests)

    def planned(self, prompts: Sequence[Prompt], step: int) -> PlannedRequests:
        """As `requests`, but also with a recipe's requests that no engine gets: those whose response the recipe gives
        as text, and those that cannot be asked."""
        of_views = [self._prompt_requests(prompt, step) for prompt in prompts]
        parts = []
        for prompt, requests in zip(prompts, of_views, strict=True):
            parts.append(PlannedRequests(tuple(requests)))
            if self.extras is not None:
                parts.append(self.extras.asked_before(prompt, requests[0], step))
        return PlannedRequests.joined(parts)

    def further(self, rollouts: Sequence[PromptRollouts], counts: Sequence[int]) -> PlannedRequests:
        """Requests for more multi responses. Their numbers and seeds go on after those of the responses in `rollouts`.

        counts: how many for each prompt of `rollouts`.
        """
        requests = [
            replace(item.multi.request, num_samples=count, seed=item.multi.request.seed + len(item.multi.rollouts))
            for item, count in zip(rollouts, counts, strict=True)
            if count
        ]
        return PlannedRequests(tuple(requests))

    def following(self, rollouts: Sequence[PromptRollouts], step: int) -> PlannedRequests:
        """A recipe's requests about the scored responses to the views."""
        if self.extras is None:
            return PlannedRequests()
        return PlannedRequests.joined([self.extras.asked_after(item, step) for item in rollouts])

    def at(self, settings: Mapping[str, float]) -> RolloutPlan:
        """The plan of a step. settings: the step's values of `ramps`, by key. Only `rollout.temperature`,
        `rollout.samples_per_prompt` and `rollout.max_response_tokens` have an effect here.

        Greedy anchors (temperature 0) stay greedy."""
        plan = self
        if (temperature := settings.get("rollout.temperature")) is not None:
            plan = plan._sampled_with(
                lambda sampling: replace(sampling, temperature=temperature) if sampling.temperature > 0 else sampling
            )
        if (samples := settings.get("rollout.samples_per_prompt")) is not None:
            plan = replace(plan, multi_samples=round(samples))
        if (longest := settings.get("rollout.max_response_tokens")) is not None:
            plan = plan._sampled_with(lambda sampling: replace(sampling, max_response_tokens=round(longest)))
        return plan

    def _sampled_with(self, changed: Callable[[Sampling], Sampling]) -> RolloutPlan:
        multi, anchor = changed(self.multi_sampling), changed(self.anchor_sampling)
        extras = self.extras and replace(self.extras, sampling=multi)
        return replace(self, multi_sampling=multi, anchor_sampling=anchor, extras=extras)

    def of_probes(self) -> RolloutPlan:
        """The plan of probes: only multi views, in one engine call, without extra requests.

        A probe's seed differs from the seed of the same prompt when the same step samples it for training.
        """
        seed = int.from_bytes(blake2b(f"probes:{self.seed}".encode(), digest_size=6).digest(), "big")
        return replace(self, anchor_views=_no_views, seed=seed, extras=None, allocation="even")

    def _prompt_requests(self, prompt: Prompt, step: int) -> list[RolloutRequest]:
        multi = self._request(prompt, None, step, self.first_samples, self.multi_sampling)
        return [
            multi,
            *(
                self._request(prompt, view, step, self.anchor_samples, self.anchor_sampling)
                for view in self.anchor_views(prompt)
            ),
        ]

    def _request(self, prompt: Prompt, view: View, step: int, num_samples: int, sampling: Sampling) -> RolloutRequest:
        start: tuple[int, ...] = ()
        if view is not None and self.start_of_source is not None:
            start = self.start_of_source(view[0])
        token_ids, images = self.encode(prompt, None if start else view)
        return RolloutRequest(
            prompt_id=prompt.prompt_id,
            view=view,
            prompt_token_ids=token_ids,
            images=images,
            num_samples=num_samples,
            seed=request_seed(self.seed, step, prompt.prompt_id, view),
            sampling=sampling,
            response_start=start,
        )


def _no_views(prompt: Prompt) -> tuple[View, ...]:
    return ()
