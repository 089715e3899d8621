"""Turns the extra requests of a recipe (mars/hooks/requests.py) into engine requests."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from mars.answers.record import FORCED, PromptLength
from mars.config.rules import LEAST_TEMPERATURE
from mars.errors import ConfigError, DataError
from mars.extra_facts import ExtraFacts
from mars.hooks.requests import Extra, Injected, wrong_type
from mars.rollout.engine import FinishedSample
from mars.rollout.seeds import request_seed
from mars.types import (
    IMAGE_MARKER,
    MAX_SCORE,
    MESSAGE_ROLES,
    Completion,
    Message,
    Prompt,
    PromptRollouts,
    RolloutRequest,
    Sampling,
    View,
)

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_ROLES = ("signal", "own_group", "guest")


@dataclass(frozen=True)
class PlannedRequests:
    """Requests of one prompt or of one engine call. requests: for the engine. given: responses that the recipe gives as
    text, now as tokens, each with its request.

    left_out: requests that cannot be asked. They have no samples.
    """

    requests: tuple[RolloutRequest, ...] = ()
    given: tuple[tuple[RolloutRequest, Completion], ...] = ()
    left_out: tuple[RolloutRequest, ...] = ()

    @property
    def all(self) -> list[RolloutRequest]:
        """All requests. `requests` come first, so that each has the same number here and in the engine's call."""
        return [*self.requests, *(request for request, _ in self.given), *self.left_out]

    def given_samples(self) -> list[FinishedSample]:
        """The given responses, with the numbers of their requests in `all`."""
        start = len(self.requests)
        return [FinishedSample(start + i, 0, completion) for i, (_, completion) in enumerate(self.given)]

    @classmethod
    def joined(cls, parts: Sequence[PlannedRequests]) -> PlannedRequests:
        return cls(
            tuple(chain.from_iterable(part.requests for part in parts)),
            tuple(chain.from_iterable(part.given for part in parts)),
            tuple(chain.from_iterable(part.left_out for part in parts)),
        )


@dataclass(frozen=True)
class ExtraPlan:
    """before: the hook's requests for a prompt, before sampling. after: those for its scored rollouts. Both get the
    step.

    encode: (messages, number of images) -> token ids of the prompt. encode_response: text -> token ids, the last of
        which ends the response. Both raise DataError for a text that would become a special token.
    sampling: of multi responses in the step. max_response_tokens: `rollout.max_response_tokens` as set; no ramp
        changes it.
    max_prompt_tokens: `data.max_prompt_tokens`. max_images: the largest number of images in one prompt of the run.
    part_weights: whether advantages are computed from parts of the reward (`algorithm.part_weights`).
    seed: of the run.
    """

    before: Callable[[Prompt, int], Sequence[Extra | Injected]]
    after: Callable[[PromptRollouts, int], Sequence[Extra | Injected]]
    encode: Callable[[Sequence[Message], int], tuple[int, ...]]
    encode_response: Callable[[str], tuple[int, ...]]
    prompt_length: PromptLength
    sampling: Sampling
    max_response_tokens: int
    max_prompt_tokens: int
    max_images: int
    part_weights: bool
    seed: int
    _warned: set[str] = field(default_factory=set, compare=False)

    def asked_before(self, prompt: Prompt, multi: RolloutRequest, step: int) -> PlannedRequests:
        """multi: the request of the multi view of the prompt."""
        return self._planned(self.before(prompt, step), prompt, multi, step, None)

    def asked_after(self, item: PromptRollouts, step: int) -> PlannedRequests:
        return self._planned(self.after(item, step), item.prompt, item.multi.request, step, item)

    def _planned(
        self,
        asked: Sequence[Extra | Injected],
        prompt: Prompt,
        multi: RolloutRequest,
        step: int,
        item: PromptRollouts | None,
    ) -> PlannedRequests:
        """item: the sampled rollouts of the prompt; None before sampling."""
        views, earlier = ((item.multi, *item.anchors), item.extras) if item else ((), ())
        sizes = {group.request.view: len(group.rollouts) for group in views}
        parts = []
        for one in asked:
            if isinstance(one, Extra | Injected) and (wrong := wrong_type(one)) is not None:
                raise self._wrong(
                    f"a request has {wrong}", prompt, "give what its class in mars/hooks/requests.py says"
                )
            if isinstance(one, Injected):
                parts.append(self._given(one, prompt, multi))
            elif isinstance(one, Extra):
                self._check(one, prompt, sizes)
                self._check_messages(one, prompt, written=item is None)
                parts.append(self._request(one, prompt, step))
            else:
                raise self._wrong(f"asks for a {type(one).__name__}", prompt, "give Extra or Injected")
        planned = PlannedRequests.joined(parts)
        keys = Counter(request.key for request in (*(group.request for group in earlier), *planned.all))
        twice = [f"{name} of view {view} about {about}" for (_, view, name, about), count in keys.items() if count > 1]
        if twice:
            raise self._wrong(f"two requests {twice[0]}", prompt, "give each its own name, view or about")
        return planned

    def _request(self, extra: Extra, prompt: Prompt, step: int) -> PlannedRequests:
        facts = ExtraFacts(extra.name, extra.role, extra.truth, extra.about, extra.bounded, in_pool=extra.in_pool)
        try:
            ids, why = self.encode(extra.messages, len(extra.images)), None
        except DataError as error:
            ids, why = (), str(error)
        request = RolloutRequest(
            prompt_id=prompt.prompt_id,
            view=extra.view,
            prompt_token_ids=ids,
            images=extra.images,
            num_samples=0 if why else extra.num_samples,
            seed=request_seed(self.seed, step, prompt.prompt_id, extra.view, (extra.name, extra.about)),
            sampling=extra.sampling or self.sampling,
            extra=facts,
        )
        length = self.prompt_length(request)
        if why is None and length > self.max_prompt_tokens:
            why = f"{length} tokens, {self.max_prompt_tokens} are allowed (data.max_prompt_tokens)"
        return PlannedRequests((request,)) if why is None else self._left_out(request, prompt, why)

    def _given(self, text: Injected, prompt: Prompt, multi: RolloutRequest) -> PlannedRequests:
        self._check_name(text.name, prompt)
        if text.score is not None and self.part_weights:
            raise self._wrong(f"{text.name} has a score without parts", prompt, "give None with algorithm.part_weights")
        if text.score is not None and not abs(text.score) <= MAX_SCORE:  # nor NaN
            allowed = f"give a number within -{MAX_SCORE:g} to {MAX_SCORE:g}"
            raise self._wrong(f"{text.name} has score {text.score}", prompt, allowed)
        truth = prompt.truth if text.score is None else None
        facts = ExtraFacts(text.name, "guest", truth, injected=True, score=text.score, in_pool=text.in_pool)
        request = replace(multi, num_samples=1, extra=facts)
        try:
            ids = self.encode_response(text.text)
        except DataError as error:
            return self._left_out(request, prompt, str(error))
        ids = ids if text.ends else ids[:-1]
        allowed = self.sampling.max_response_tokens
        if not 0 < len(ids) <= allowed:
            why = f"{len(ids)} tokens, want 1 to {allowed} (rollout.max_response_tokens)"
            return self._left_out(request, prompt, why)
        return PlannedRequests(given=((request, Completion(ids, (0.0,) * len(ids), "stop")),))

    def _left_out(self, request: RolloutRequest, prompt: Prompt, why: str) -> PlannedRequests:
        extra = request.extra
        assert extra is not None  # every request made here is an extra one
        if extra.name not in self._warned:
            self._warned.add(extra.name)
            logger.warning(
                "%s: the extra request %s is left out: %s; others of this name are counted in extra/%s/left_out only",
                prompt.row, extra.name, why, extra.name,
            )  # fmt: skip
        return PlannedRequests(left_out=(replace(request, num_samples=0),))

    def _check(self, extra: Extra, prompt: Prompt, sizes: Mapping[View, int]) -> None:
        """sizes: view -> its number of rollouts; empty before sampling. `extra.about` must be below the number of
        `extra.view`."""
        self._check_name(extra.name, prompt)
        wrong, sampling, own = None, extra.sampling, self.sampling
        names = {source.name for source in prompt.sources}
        if extra.role not in _ROLES:
            wrong = f"role {extra.role!r}", f"use {', '.join(_ROLES)}"
        elif extra.role != "signal" and extra.truth is None:
            wrong = f"role {extra.role} without a truth", "what is trained on needs a score"
        elif extra.role != "guest" and not extra.in_pool:
            wrong = f"role {extra.role} with in_pool=False", "only a guest is in the pool of other responses"
        elif extra.num_samples < 1:
            wrong = f"num_samples={extra.num_samples}", "ask for 1 or more"
        elif len(extra.images) > self.max_images:
            wrong = f"{len(extra.images)} images", f"the run's rows have at most {self.max_images}"
        elif extra.view is not None and not (extra.view and set(extra.view) <= names):
            wrong = f"view {extra.view}", f"name sources of the row: {', '.join(sorted(names)) or 'none'}"
        elif extra.about is not None and not 0 <= extra.about < sizes.get(extra.view, 0):
            wrong = f"about={extra.about}", f"the view has {sizes.get(extra.view, 0)} rollouts so far"
        elif sampling is not None and (found := impossible_sampling(sampling)) is not None:
            wrong = found
        elif sampling is not None and sampling.max_response_tokens > self.max_response_tokens:
            allowed = f"rollout.max_response_tokens is {self.max_response_tokens}"
            wrong = f"max_response_tokens={sampling.max_response_tokens}", allowed
        elif extra.role == "own_group" and replace(sampling or own, max_response_tokens=own.max_response_tokens) != own:
            wrong = f"role own_group with {sampling}", "its log-probs are compared: only its length may differ"
        if wrong is not None:
            raise self._wrong(f"{extra.name} has {wrong[0]}", prompt, wrong[1])

    def _check_messages(self, extra: Extra, prompt: Prompt, written: bool) -> None:
        """written: whether the hook alone wrote the messages. If not, they may quote a response, and image markers in
        the quoted text stand for no image."""
        roles = [message.role for message in extra.messages if message.role not in MESSAGE_ROLES]
        if roles:
            raise self._wrong(f"{extra.name} has message role {roles[0]!r}", prompt, f"use {', '.join(MESSAGE_ROLES)}")
        markers, images = sum(message.text.count(IMAGE_MARKER) for message in extra.messages), len(extra.images)
        if markers < images or (written and markers > images):
            what = f"{extra.name} has {markers} {IMAGE_MARKER} for {images} images"
            raise self._wrong(what, prompt, f"write one {IMAGE_MARKER} for each image")

    def _check_name(self, name: str, prompt: Prompt) -> None:
        if not _NAME.fullmatch(name):
            raise self._wrong(f"the name {name!r}", prompt, 'use letters, digits, "_", "-" and "."')
        if name == FORCED:
            raise self._wrong(f"the name {name!r}", prompt, "choose another; anchor.kind=forced_source has it")

    def _wrong(self, what: str, prompt: Prompt, do: str) -> ConfigError:
        return ConfigError(f"recipe.requests: {prompt.row}: {what}; {do}")


def impossible_sampling(sampling: Sampling) -> tuple[str, str] | None:
    """(the value that engines would refuse or replace, what to give instead); None if every value is possible."""
    temperature, top_p, top_k = sampling.temperature, sampling.top_p, sampling.top_k
    if not (temperature == 0 or (LEAST_TEMPERATURE <= temperature < math.inf)):  # nor NaN
        return f"temperature={temperature}", f"give 0, which is greedy, or {LEAST_TEMPERATURE} or more, as vLLM takes"
    if not 0 < top_p <= 1:
        return f"top_p={top_p}", "give a number > 0 and <= 1 (1: all)"
    if top_k < 0:
        return f"top_k={top_k}", "give an integer >= 0 (0: all)"
    if sampling.max_response_tokens < 1:
        return f"max_response_tokens={sampling.max_response_tokens}", "give 1 or more"
    return None
