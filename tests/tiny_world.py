"""Tiny models with everything around them, and a plain transformers forward to compare with."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mars.actor.fsdp_trainer import FsdpTrainer
from mars.actor.objective import Objective
from mars.actor.reading import Process
from mars.actor.trainer import Rendezvous
from mars.algorithms.advantages import AdvantageSettings, group_advantages
from mars.batching.plan import plan_updates
from mars.config.algorithm_section import AlgorithmConfig
from mars.config.schema import TrainConfig
from mars.data.pixels.images import decode_image
from mars.data.prompts.budget import ImageBudget, num_image_tokens
from mars.data.prompts.chat import PromptEncoder, prompt_length
from mars.data.prompts.processor import PromptProcessor
from mars.train_types import MicroBatch, Packing, TrainBatch, TrainPrompt, TrainResponse, UpdatePlan
from mars.types import ImageRef, Message, RolloutRequest
from mars.weights.object_store import in_memory
from tests.builders import train_config

MIN_PIXELS, MAX_PIXELS = 28 * 28, 224 * 224  # as in the tiny models' own processor files
ADVANTAGE = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-6)
GRPO = train_config(kl_reference=None).algorithm


class TinyWorld:
    """One model folder: prompts, responses, batches, trainers; and the scores of plain transformers to compare with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.encoder = PromptEncoder.from_pretrained(str(folder))
        self.rules = self.encoder.token_rules()
        self.budget = ImageBudget.from_pretrained(str(folder), MIN_PIXELS, MAX_PIXELS)
        self.processor = PromptProcessor(
            str(folder),
            decode=decode_image,
            budget=self.budget,
            rules=self.rules,
            cache_bytes=2**24,
        )
        blocked = {*self.rules.blocked_ids, *self.rules.eos_ids}
        self.words = [i for i in range(max(self.rules.blocked_ids) + 1) if i not in blocked]

    # --- prompts, responses, batches

    def text(self, name: str, images: Sequence[ImageRef]) -> str:
        return "<image>\n" * len(images) + f"What is in picture {name}?"

    def prompt_ids(self, name: str, images: Sequence[ImageRef]) -> tuple[int, ...]:
        return self.encoder.encode((Message("user", self.text(name, images)),), len(images))

    def response(self, length: int, seed: int) -> tuple[int, ...]:
        return (*random.Random(seed).choices(self.words, k=length - 1), self.rules.eos_ids[0])

    def train_prompt(
        self, name: str, images: Sequence[ImageRef], lengths: Sequence[int], rewards: Sequence[float] | None = None,
        anchors: Sequence[float] = (), *, rollout_logprobs: Sequence[Sequence[float]] | None = None,
        advantage: AdvantageSettings = ADVANTAGE,
    ) -> TrainPrompt:  # fmt: skip
        """A prompt with random responses of these lengths, at temperature 1, and the advantages of these rewards."""
        rewards = [k + 0.25 * len(name) for k in range(len(lengths))] if rewards is None else rewards
        ids = self.prompt_ids(name, images)
        found = advantages_of(rewards, anchors, advantage)
        responses = []
        for k, (length, (value, weight)) in enumerate(zip(lengths, found, strict=True)):
            tokens = self.response(length, seed=hash_of(name, k))
            logprobs = (-1.0,) * length if rollout_logprobs is None else tuple(rollout_logprobs[k])
            responses.append(TrainResponse(tokens, logprobs, value, weight))
        tokens_per_image = [num_image_tokens(image.size, self.budget) for image in images]
        length = prompt_length(ids, tokens_per_image)
        return TrainPrompt(name, ids, length, tuple(images), tuple(responses), 1.0)

    def batch(
        self, prompts: Sequence[TrainPrompt], per_update: int = 100, tokens_per_forward: int = 600,
        packing: Packing = "shared_prefix",
    ) -> TrainBatch:  # fmt: skip
        return TrainBatch(tuple(prompts), plan_updates(prompts, per_update, 1, tokens_per_forward, packing))

    # --- the trainer

    def config(self, objective: AlgorithmConfig = GRPO, **named) -> TrainConfig:
        """Settings of a trainer. named: as in `train_config`. If the objective names no reference, it is this model."""
        reference = objective.kl_reference or str(self.folder)
        values = {"model.path": str(self.folder), **objective.dotted("algorithm."), "algorithm.kl_reference": reference}
        return train_config(values, **{"learning_rate": 1e-3} | named)

    def trainer(self, **changes) -> FsdpTrainer:
        return self.trainer_of(self.config(**changes), self.processor.process)

    def trainer_of(self, config: TrainConfig, process: Process) -> FsdpTrainer:
        return FsdpTrainer(config, self.rules, Rendezvous(0, 1, None, 60.0), process, in_memory())

    # --- plain transformers

    def plain_model(self, folder: Path | None = None):
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(folder or self.folder, dtype=torch.float32)

    def plain_scores(
        self, model, name: str, images: Sequence[ImageRef], response: Sequence[int], temperature: float = 1.0,
        folder: Path | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Log-probs and entropies [R] of one sequence alone, with gradient.

        The real processor from text and pictures, the model's own positions, full logits.
        """
        content = []
        for i, piece in enumerate(self.text(name, images).split("<image>")):
            content += [{"type": "image", "image": decode_image(images[i - 1])}] if i else []
            content += [{"type": "text", "text": piece}] if piece else []
        inputs = real_processor(folder or self.folder).apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", enable_thinking=False,
        )  # fmt: skip
        tail = torch.tensor([list(response)])
        start = inputs["input_ids"].shape[1]
        ids = torch.cat([inputs["input_ids"], tail], dim=1)
        inputs["input_ids"], inputs["attention_mask"] = ids, torch.ones_like(ids)
        if model.config.model_type != "internvl":
            inputs["mm_token_type_ids"] = (ids == self.rules.image_id).int()
        logits = model(**inputs).logits[0, start - 1 : -1].float() / temperature
        logits[:, list(self.rules.blocked_ids)] = -torch.inf
        scores = logits.log_softmax(-1)
        possible = scores[:, sorted(set(range(scores.shape[1])) - set(self.rules.blocked_ids))]
        return scores.gather(-1, tail[0].unsqueeze(-1)).squeeze(-1), -(possible.exp() * possible).sum(-1)

    def plain_logprobs(self, *args, **kwargs) -> Tensor:
        return self.plain_scores(*args, **kwargs)[0]

    def plain_batch_logprobs(self, model, batch: TrainBatch, temperature: float = 1.0) -> list[Tensor]:
        return [
            self.plain_logprobs(model, p.prompt_id, p.images, r.token_ids, temperature)
            for p in batch.prompts
            for r in p.responses
        ]


@cache
def real_processor(folder: Path):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


def hash_of(name: str, k: int) -> int:
    return sum(map(ord, name)) * 1000 + k


def advantages_of(
    rewards: Sequence[float], anchors: Sequence[float], settings: AdvantageSettings = ADVANTAGE
) -> list[tuple[float, float]]:
    """(advantage, weight) of each reward of one prompt."""
    pool = [torch.tensor(values, dtype=torch.float64) for values in (rewards, anchors)]
    index = [torch.zeros(len(values), dtype=torch.int64) for values in (rewards, anchors)]
    found = group_advantages(pool[0], index[0], pool[1], index[1], 1, settings)
    return list(zip(found.values.tolist(), found.weights.tolist(), strict=True))


def at_temperature(prompts: Iterable[TrainPrompt], temperature: float) -> list[TrainPrompt]:
    """The prompts as if their responses had been sampled at this temperature."""
    return [replace(prompt, temperature=temperature) for prompt in prompts]


def response_logprobs(trainer: FsdpTrainer, prompts: Sequence[TrainPrompt]) -> list[list[float]]:
    """The log-probs of each response, prompt by prompt: the pass for old log-probs, each response in its own forward.

    trainer: of a single rank.
    """
    rows = [(p, k) for p, prompt in enumerate(prompts) for k in range(len(prompt.responses))]
    plan = UpdatePlan((tuple(MicroBatch((row,)) for row in rows),))
    batch = TrainBatch(tuple(prompts), (plan,))
    scored = trainer._old_logprobs(batch, [plan], trainer._reader.start(batch, [plan], rank=0))
    return [scored[micro].tolist() for micro in plan.ranks[0]]


def sampled_prompt(request: RolloutRequest, responses: Sequence[Sequence[int]]) -> TrainPrompt:
    """A prompt with the completions of an engine, for `response_logprobs`."""
    made = tuple(TrainResponse(tuple(ids), (0.0,) * len(ids), 0.0, 0.0) for ids in responses)
    ids = request.prompt_token_ids
    return TrainPrompt(request.prompt_id, ids, len(ids), request.images, made, request.sampling.temperature)


def with_algorithm(trainer: FsdpTrainer, algorithm: AlgorithmConfig) -> FsdpTrainer:
    """The trainer with another loss, because a second trainer would take longer. A KL term needs a reference model."""
    trainer._config = trainer._config.model_copy(update={"algorithm": algorithm})
    trainer._objective = Objective(algorithm, truncation_nats=0.0)
    return trainer


def gradients(trainer: FsdpTrainer, batch: TrainBatch) -> list[dict[str, Tensor]]:
    """The gradient of each update by Hugging Face name, before clipping. The updates are applied, too."""
    found, step = [], trainer._optimizer.step

    def spy():
        named = trainer._policy.named_parameters()
        found.append({n.removeprefix("backbone."): full(p.grad).clone() for n, p in named if p.grad is not None})
        return step()

    trainer._optimizer.step = spy
    try:
        trainer.update(batch)
    finally:
        trainer._optimizer.step = step
    return found


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Relative difference of two sets of tensors, by their norms."""
    assert one.keys() == other.keys()
    difference = sum((one[n] - other[n]).double().square().sum() for n in one).sqrt()
    return float(difference / sum(other[n].double().square().sum() for n in one).sqrt())
