"""Settings, prompts, sets, groups and rollouts for tests: each builder fills in what a test does not set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from mars.config.fields import check_fields
from mars.config.keys import leaves
from mars.config.load import load_config
from mars.config.schema import TrainConfig
from mars.config.section import Section
from mars.data.convert.eval_json import read_json_rows
from mars.data.prompts.prepare import PromptSet
from mars.data.rows.dataset import TruthCheck, read_prompts
from mars.data.rows.problems import OnBadSample, refuse_or_drop
from mars.extra_facts import ExtraFacts, Role
from mars.rewards.contract import failed_result
from mars.types import (
    Completion,
    ImageRef,
    Message,
    Prompt,
    PromptRollouts,
    RewardInput,
    RewardResult,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    Sampling,
    Source,
    View,
)

IMAGE = ImageRef("a.png", (28, 28))
SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_response_tokens=16)
Reward = float | RewardResult | None
SomeSection = TypeVar("SomeSection", bound=Section)


def train_config(values: Mapping[str, Any] | None = None, **named: Any) -> TrainConfig:
    """The shipped settings for a small run on the CPU in this process, changed by `values` (dotted key -> value).

    named: like `values`, but by the last part of the key: packing="padded". Only for sections that workers read.
    """
    changes = {_key(name): value for name, value in named.items()} | dict(values or {})
    config, problems = check_fields(TrainConfig, _small_run().dotted() | changes)
    assert isinstance(config, TrainConfig), problems or "the settings break a rule of mars/config/rules.py"
    return config


def altered(section: SomeSection, **changes: Any) -> SomeSection:
    """A copy of a section with other values, checked as if read from a file."""
    return type(section).model_validate(section.model_dump() | changes)


@cache
def _small_run() -> TrainConfig:
    overrides = [
        "data.train_files=[none.jsonl]", "model.path=none", "model.dtype=float32", "anchor=mono", "rollout=hf",
        "rollout.top_p=1.0", "cluster=local", "cluster.device=cpu", "algorithm.kl_coefficient=0.0",
        "actor.gradient_checkpointing=false", "actor.logprob_chunk_tokens=16", "actor.weight_decay=0.0",
    ]  # fmt: skip
    return load_config("train", overrides, [])


def _key(name: str) -> str:
    keys = [f"{section}.{name}" for section in ("actor", "algorithm", "rollout", "model", "anchor", "run", "cluster")]
    return next(key for key in keys if key in leaves(TrainConfig))


def make_prompt(
    prompt_id: str = "p", images: Sequence[ImageRef] = (), names: Sequence[str] | None = None,
    text: str | None = None, **fields,
) -> Prompt:  # fmt: skip
    """A question about `images`. The sources are s0, s1, ... unless named; the text shows every image once."""
    names = [f"s{i}" for i in range(len(images))] if names is None else names
    sources = tuple(Source(name, image) for name, image in zip(names, images, strict=True))
    text = "<image>\n" * len(images) + f"Question {prompt_id}?" if text is None else text
    given = {"row": f"rows.jsonl:{prompt_id}", "data_source": "test", "truth": "yes"} | fields
    given = {"messages": (Message("user", text),)} | given
    return Prompt(prompt_id=prompt_id, sources=sources, **given)


def make_item(
    response: str,
    truth: str = "",
    truth_size: tuple[int, int] | None = None,
    response_size: tuple[int, int] | None = None,
    **extra_info: Any,
) -> RewardInput:
    """The input of a reward for one response."""
    return RewardInput("test", None, response, truth, truth_size, response_size, extra_info)


def make_reward(reward: Reward) -> RewardResult:
    """A score with accuracy 0 and no parts. None: the failed result of a function that raised."""
    if isinstance(reward, RewardResult):
        return reward
    return failed_result("raised") if reward is None else RewardResult(reward, 0.0, {})


def make_group(prompt_id: str, view: View, rewards: Sequence[Reward], text: str | Sequence[str] = "") -> RolloutGroup:
    """One rollout per reward. Rollout k has k + 1 tokens, each with log-probability -0.5, and ends by itself.

    text: of every rollout, or one for each.
    """
    texts = [text] * len(rewards) if isinstance(text, str) else text
    rollouts = tuple(
        Rollout(prompt_id, view, k, said, Completion((7,) * (k + 1), (-0.5,) * (k + 1), "stop"), make_reward(reward))
        for k, (reward, said) in enumerate(zip(rewards, texts, strict=True))
    )
    return RolloutGroup(RolloutRequest(prompt_id, view, (1, 2, 3), (), len(rewards), 0, SAMPLING), rollouts)


def make_rollouts(
    prompt: Prompt | str, multi: Sequence[Reward], *, text: str = "", **anchors: Sequence[Reward]
) -> PromptRollouts:
    """The rollouts of a prompt: `multi` rewards on all its images, and those of each anchor view, all with `text`.

    The name of an anchor is that of its source; several names are joined by `_and_`. If `prompt` is an id, the prompt
    has the sources that the anchors name.

    >>> item = make_rollouts("x", [1.0, None], visible=[0.5])
    >>> [(group.request.view, len(group.rollouts)) for group in (item.multi, *item.anchors)]
    [(None, 2), (('visible',), 1)]
    """
    views = {name: tuple(name.split("_and_")) for name in anchors}
    if isinstance(prompt, str):
        names = list(dict.fromkeys(name for view in views.values() for name in view))
        prompt = make_prompt(prompt, [IMAGE] * len(names), names)
    groups = tuple(make_group(prompt.prompt_id, views[name], rewards, text) for name, rewards in anchors.items())
    return PromptRollouts(prompt, make_group(prompt.prompt_id, None, multi, text), groups)


def with_extra(item: PromptRollouts, name: str, role: Role, rewards: Sequence[Reward], **facts: Any) -> PromptRollouts:
    """The rollouts with one more extra group: one rollout for each reward, with the prompt ids (4, 5)."""
    group = make_group(item.prompt.prompt_id, None, rewards)
    extra = ExtraFacts(name, role, item.prompt.truth, **facts)
    group = replace(
        group,
        request=replace(group.request, prompt_token_ids=(4, 5), extra=extra),
        rollouts=tuple(replace(rollout, extra=name) for rollout in group.rollouts),
    )
    return replace(item, extras=(*item.extras, group))


def completions(engine, requests):
    """[request][sample] -> Completion, for tests that ignore their order. Checks that each comes exactly once."""
    by_place = {}
    for finished in engine.generate(requests):
        for sample in finished:
            assert (sample.request, sample.index) not in by_place
            by_place[sample.request, sample.index] = sample.completion
    assert set(by_place) == {(i, k) for i, request in enumerate(requests) for k in range(request.num_samples)}
    return [[by_place[i, k] for k in range(request.num_samples)] for i, request in enumerate(requests)]


def load_prompts(
    files: Sequence[str], image_root: str | None, policy: OnBadSample, check_truth: TruthCheck
) -> PromptSet:
    """The usable prompts of files. policy: `data.on_bad_sample`. Needs no model, and applies no template or limits."""
    reading = read_prompts(files, image_root, check_truth, read_json=read_json_rows)
    dropped = refuse_or_drop(reading.problems, len(reading.rows), policy)
    return PromptSet(reading.usable, dropped, reading.fingerprint, {})
