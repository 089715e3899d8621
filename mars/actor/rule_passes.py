"""The further forwards of a token rule, on one rank. All ranks make equally many, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mars.actor.batch import ForwardBatch
from mars.actor.objective import Objective
from mars.actor.reading import PromptReader, ReadPrompts
from mars.actor.rule_terms import RuleInputs, facts_of, measured_of, totals_of
from mars.actor.targets import TokenTargets, row_targets
from mars.algorithms.token_rule import ScoringPass, TokenRule
from mars.image_transform import transform_seed, transformed
from mars.train_types import MicroBatch, TrainBatch, TrainPrompt, UpdatePlan
from mars.types import ImageRef

Models = Mapping[str, Callable[[ForwardBatch], tuple[Tensor, Tensor]]]
"""The policy, and "reference" if one is loaded. Each gives log-probs and entropies of response tokens, [T] each."""

ForwardOf = Callable[[TrainBatch, MicroBatch, ReadPrompts], ForwardBatch]
Scores = Mapping[MicroBatch, tuple[Tensor, Tensor]]
"""Log-probs and entropies, [T] each, of forwards."""


class RulePasses:
    """Makes a rule's passes, batch by batch.

    models: at least the models of the rule's passes. forward_of: makes the tensors of a forward.
    """

    def __init__(
        self, rule: TokenRule, models: Models, forward_of: ForwardOf, run_seed: int, device: torch.device
    ) -> None:
        self.rule, self._models, self._forward_of = rule, models, forward_of
        self._run_seed, self._device = run_seed, device

    def start(self, batch: TrainBatch, reader: PromptReader, rank: int, objective: Objective) -> BatchPasses:
        """Begin to read the changed images of this rank's rows, in the order of the forwards.

        objective: of the step.
        """
        read = {}
        for one in self.rule.passes:
            key = (self._run_seed, batch.step, one.name)
            changed = with_transform(batch, one.transform, one.strength, one.images, key)
            read[one.name] = reader.start(changed, batch.updates, rank)
        return BatchPasses(self, batch, read, rank, objective)

    def forward(self, one: ScoringPass, batch: TrainBatch, micro: MicroBatch, read: ReadPrompts) -> Tensor:
        return self._models[one.model](self._forward_of(batch, micro, read))[0]

    def totals(
        self, batch: TrainBatch, micros: Sequence[MicroBatch], old: Scores, extra: _Extra, objective: Objective
    ) -> dict[str, float]:
        """The results of the rule's `measure`, reduced over an update's forwards on all ranks.

        old: log-probs and entropies with the weights before the first update.
        """
        measured = []
        for micro in micros:
            (logprobs, entropy), rows = old[micro], row_targets(batch, micro)
            lengths = torch.tensor([len(row.response.token_ids) for row in rows], device=self._device)
            tokens = objective.without_masked(logprobs, TokenTargets.of(rows, lengths, logprobs))
            facts = facts_of(logprobs, logprobs, None, entropy, extra.of(micro), tokens, batch.settings)
            measured.append(measured_of(self.rule, facts))
        return totals_of(measured, self._device)


@dataclass(frozen=True)
class _Extra:
    """Log-probs of the passes without gradient: name of the pass -> forward -> [T]."""

    values: dict[str, dict[MicroBatch, Tensor]] = field(default_factory=dict)

    def of(self, micro: MicroBatch) -> dict[str, Tensor]:
        return {name: scored[micro] for name, scored in self.values.items()}


class BatchPasses:
    """The passes of one batch. read: name of a pass -> the batch's prompts with the images that the pass uses."""

    def __init__(
        self, passes: RulePasses, batch: TrainBatch, read: Mapping[str, ReadPrompts], rank: int, objective: Objective
    ) -> None:
        self._passes, self._batch, self._read, self._rank = passes, batch, read, rank
        self._objective = objective
        self._extra, self._old = _Extra(), {}
        self._gradient = [one for one in passes.rule.passes if one.gradient]

    @torch.no_grad()
    def score(self, old: Scores) -> None:
        """Compute the passes with `gradient=False`, before the first update. Frees their images afterwards.

        old: if the rule has `measures`, log-probs and entropies of all forwards with the weights before the first
            update; else {}."""
        self._old = old
        micros = [micro for plan in self._batch.updates for micro in plan.ranks[self._rank]]
        for one in self._passes.rule.passes:
            if not one.gradient:
                read = self._read[one.name]
                scored = {micro: self._passes.forward(one, self._batch, micro, read) for micro in micros}
                self._extra.values[one.name] = scored
                read.drop_prompts()

    def unreadable(self, micros: Iterable[MicroBatch]) -> dict[int, str]:
        """As `ReadPrompts.unreadable`, for the changed images."""
        micros = list(micros)
        return {index: why for read in self._read.values() for index, why in read.unreadable(micros).items()}

    def totals(self, batch: TrainBatch, plan: UpdatePlan) -> dict[str, float]:
        """The results of the rule's `measure`, combined over the forwards of the update on all ranks; {} without
        `measures`.

        batch: with weight 0 for responses to prompts that are known to be unreadable. A collective call if the rule
        measures.
        """
        if not self._passes.rule.measures:
            return {}
        return self._passes.totals(batch, plan.ranks[self._rank], self._old, self._extra, self._objective)

    @torch.no_grad()
    def inputs(self, micro: MicroBatch, totals: Mapping[str, float]) -> RuleInputs:
        """What the rule gets for a forward. The log-probs of passes with gradient are leaves; `backward` sends their
        gradient on."""
        own = {
            one.name: self._passes.forward(one, self._batch, micro, self._read[one.name]).requires_grad_()
            for one in self._gradient
        }
        return RuleInputs(self._passes.rule, {**self._extra.of(micro), **own}, totals, self._batch.settings)

    def backward(self, micro: MicroBatch, inputs: RuleInputs) -> None:
        """Send the gradients of the passes' log-probs on to the weights, after the backward of the loss.

        Each pass is computed again for this, so that the activations of a forward and of its pass are never in memory
        together.
        """
        for one in self._gradient:
            values = inputs.extra[one.name]
            gradient = torch.zeros_like(values) if values.grad is None else values.grad
            again = self._passes.forward(one, self._batch, micro, self._read[one.name])
            if again.requires_grad:
                again.backward(gradient)


@dataclass(frozen=True)
class PreparedBatch:
    """What the updates of a batch use: its prompts, old log-probs of forwards, and the passes of a rule.

    old: forward -> its old log-probs. May lack the forwards of the first update.
    """

    prompts: ReadPrompts
    old: Mapping[MicroBatch, Tensor]
    passes: BatchPasses | None

    def unreadable(self, micros: Sequence[MicroBatch]) -> dict[int, str]:
        changed = {} if self.passes is None else self.passes.unreadable(micros)
        return changed | self.prompts.unreadable(micros)


def with_transform(
    batch: TrainBatch, transform: str | None, strength: float, images: Literal["all", "one"] | int, key: tuple[Any, ...]
) -> TrainBatch:
    """The batch with changed images; unchanged if `transform` is None. images: as in `ScoringPass`.

    key: what the random numbers depend on, together with the prompt id.
    """
    if transform is None:
        return batch

    def changed(prompt: TrainPrompt) -> tuple[ImageRef, ...]:
        found = transformed(prompt.images, transform, strength, *key, prompt.prompt_id)
        if images == "all" or not found:
            return found
        chosen = transform_seed(*key, prompt.prompt_id) % len(found) if images == "one" else images
        return tuple(found[i] if i == chosen else image for i, image in enumerate(prompt.images))

    return replace(batch, prompts=tuple(replace(prompt, images=changed(prompt)) for prompt in batch.prompts))
