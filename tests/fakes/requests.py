"""A step's parts with a hook that asks extra requests, on the fakes of tests/fakes/step.py."""

from __future__ import annotations

from dataclasses import replace

from mars.errors import DataError
from mars.hooks.step_hooks import StepHooks
from mars.rollout.extras import ExtraPlan
from mars.step_parts import StepParts
from tests.fakes.step import EOS


def with_requests(made: StepParts, hooks: StepHooks, max_prompt_tokens: int = 9999, seed: int = 3) -> StepParts:
    """A message costs one token, an image too; a given text is digits, one token each. "special" is refused."""

    def encode(messages, num_images):
        _refuse("".join(message.text for message in messages))
        return (2, *(len(message.text) for message in messages), *(7,) * num_images)

    def encode_response(text):
        _refuse(text)
        return (*(int(letter) for letter in text), EOS)

    extras = ExtraPlan(
        before=hooks.asked_before,
        after=hooks.asked_after,
        encode=encode,
        encode_response=encode_response,
        prompt_length=made.prompt_length,
        sampling=made.plan.multi_sampling,
        max_response_tokens=made.plan.multi_sampling.max_response_tokens,
        max_prompt_tokens=max_prompt_tokens,
        max_images=3,
        part_weights=bool(made.part_weights),
        seed=seed,
    )
    return replace(made, hooks=hooks, plan=replace(made.plan, extras=extras))


def _refuse(text):
    if "special" in text:
        raise DataError("a special token")
