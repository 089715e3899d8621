"""Prompts and rollouts for the tests of tracking."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mars.types import (
    Completion,
    ImageRef,
    Message,
    Prompt,
    PromptRollouts,
    RewardResult,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    Sampling,
    Source,
    View,
)

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_response_tokens=8)


def make_prompt(prompt_id: str, question: str = "Where?", sources: Sequence[str] = ("visible", "infrared")) -> Prompt:
    return Prompt(
        prompt_id=prompt_id,
        row=f"train.parquet:{prompt_id}",
        data_source="llvip",
        messages=(Message("user", "<image>" * len(sources) + question),),
        sources=tuple(Source(name, ImageRef(f"{name}.png", (40, 20))) for name in sources),
        truth=json.dumps([{"bbox_2d": [10, 5, 20, 10], "label": "person"}]),
    )


def make_group(prompt: Prompt, view: View, texts: Sequence[str], reward: RewardResult | None = None) -> RolloutGroup:
    request = RolloutRequest(prompt.prompt_id, view, (1, 2), (), len(texts), 0, SAMPLING)
    reward = reward or RewardResult(0.5, 0.25, {"format": 0.75, "iou": 0.25})
    rollouts = tuple(
        Rollout(
            prompt.prompt_id, view, index, text, Completion((5,) * (index + 3), (0.0,) * (index + 3), "stop"), reward
        )
        for index, text in enumerate(texts)
    )
    return RolloutGroup(request, rollouts)


def make_rollouts(prompt: Prompt, text: str = "<answer>yes</answer>") -> PromptRollouts:
    anchors = tuple(make_group(prompt, (source.name,), [f"{source.name}: {text}"]) for source in prompt.sources)
    return PromptRollouts(prompt, make_group(prompt, None, [text, text]), anchors)
