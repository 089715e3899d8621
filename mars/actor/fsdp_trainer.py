"""One FSDP2 rank of the policy's trainer. All ranks get the same calls and batches; each computes its own rows."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from mars.actor.batch import ForwardBatch, ProcessedPrompt, forward_batch, with_temperatures
from mars.actor.memory import PeakMemory
from mars.actor.model import ScoringSettings
from mars.actor.objective import Objective, truncation_nats
from mars.actor.offloading import Offloading
from mars.actor.optimizer import Optimizer
from mars.actor.process_group import join_group, leave_group
from mars.actor.publisher import WeightPublisher
from mars.actor.reading import Process, PromptReader, ReadPrompts, agreed, merged_over_ranks, without
from mars.actor.reference import kl_reference, reference_update, updated_model
from mars.actor.response_scores import ResponseScorer
from mars.actor.rule_passes import Models, PreparedBatch, RulePasses, Scores
from mars.actor.sharding import mesh_of_ranks
from mars.actor.shards import ShardWriter, load_trainer_state, trainer_state
from mars.actor.shared_prefix import group_rows, pack_groups
from mars.actor.state import save_policy
from mars.actor.targets import compared_update, row_targets
from mars.actor.trained_policy import trained_policy
from mars.actor.trainer import Rendezvous, ResponseScores, SkippedUpdate, UpdateStats
from mars.actor.update_pass import Row, UpdateOutcome, UpdatePass, skipped_updates
from mars.actor.update_sums import UpdateSums, scaled
from mars.algorithms.scoring import ScoringSpec, Span
from mars.algorithms.token_rule import TokenRule
from mars.config.schema import TrainConfig
from mars.errors import ConfigError, NumericalError
from mars.train_types import MicroBatch, TrainBatch, TrainResponse, UpdatePlan
from mars.types import TokenRules, WeightUpdate
from mars.weights.transfer import WeightTransfer


class FsdpTrainer:
    """A `PolicyTrainer`. rule: of `recipe.tokens`, or None."""

    def __init__(
        self,
        config: TrainConfig,
        rules: TokenRules,
        rendezvous: Rendezvous,
        process: Process,
        transfer: WeightTransfer,
        rule: TokenRule | None = None,
    ) -> None:
        self._config, self._rules = config, rules
        self._reader = PromptReader(process)
        self._rank, self._world_size = rendezvous.rank, rendezvous.world_size
        model, rollout, actor, device = config.model, config.rollout, config.actor, config.cluster.device
        self._owns_group = join_group(rendezvous, device)
        self._device = torch.device(device, torch.cuda.current_device() if device == "cuda" else None)
        torch.manual_seed(config.run.seed)
        mesh = mesh_of_ranks(device, self._world_size, actor.fsdp_size)
        scoring = ScoringSettings(rollout.temperature, rules.blocked_ids, actor.logprob_chunk_tokens)
        self._policy = trained_policy(model, actor, scoring, actor.packing, mesh, config.run.seed)
        self._optimizer = Optimizer(dict(self._policy.named_parameters()), actor, total_steps=None)
        self._reference = kl_reference(config, self._policy, scoring, mesh)
        self._reference_update = reference_update(config.algorithm, self._policy, self._reference)
        self._objective = Objective(config.algorithm, truncation_nats(rollout.top_p, rollout.top_k))
        reference = self._reference if isinstance(self._reference, torch.nn.Module) else None
        self._memory = Offloading(self._policy, reference, self._optimizer, actor.offload == "cpu")
        self._shards = ShardWriter()
        self._publisher = WeightPublisher(self._policy, model.dtype, transfer, self._memory.readable)
        self._skipped_in_a_row = 0
        self._passes = None
        if rule is not None:
            self._passes = RulePasses(rule, self._models(), self._forward_of, config.run.seed, self._device)

    def update(self, batch: TrainBatch) -> UpdateStats:
        """Raises NumericalError after more than `max_skipped_updates` non-finite updates in a row."""
        self._memory.need_all()
        version = self._publisher.version
        self._publisher.changed()
        self._objective = self._objective.at(batch.settings)
        memory, compared = PeakMemory(self._device), compared_update(batch)
        # The first update takes its old log-probs from its own forward. The weights have not changed yet, so the ratio
        # is exactly 1.
        later, measures = batch.updates[1:], self._passes is not None and self._passes.rule.measures
        passes = self._passes and self._passes.start(batch, self._reader, self._rank, self._objective)
        prompts = self._reader.start(batch, (*later, *batch.updates), self._rank)
        start = time.perf_counter()
        measured = self._old_scores(batch, batch.updates, prompts) if measures else {}
        old = {m: s[0] for m, s in measured.items()} if measures else self._old_logprobs(batch, later, prompts)
        if passes is not None:
            passes.score(measured)
        prepared = PreparedBatch(prompts, old, passes)
        self._synchronize()
        old_seconds = time.perf_counter() - start
        updates: list[UpdateOutcome] = []
        for i in range(len(batch.updates)):
            updates.append(self._update_once(batch, i, prepared, compare_rollout=i == compared))
            self._check_skipped(updates)
        results = [update.metrics for update in updates]
        keys = dict.fromkeys(key for result in results for key in result)
        metrics = {key: fmean(result[key] for result in results if key in result) for key in keys}
        metrics["fault/skipped_updates"] = sum(result["fault/skipped_updates"] for result in results)
        metrics |= {key: value for key, value in results[-1].items() if key == "actor/lr"}
        self._synchronize()
        unreadable = {batch.prompts[p].prompt_id: why for update in updates for p, why in update.unreadable.items()}
        return UpdateStats(metrics | memory.metrics(), old_seconds, unreadable, skipped_updates(updates), version)

    def score_responses(
        self, batch: TrainBatch, spec: ScoringSpec, spans: Sequence[Sequence[Span]] | None = None
    ) -> ResponseScores:
        self._memory.need_all()
        if self._reference is None and spec.needs_reference:
            raise ConfigError(
                f"algorithm.kl_coefficient: no reference model was loaded, so {spec.name!r} cannot be computed; "
                f"got {self._config.algorithm.kl_coefficient}; give a number > 0, or set algorithm.reference_every"
            )
        algorithm, seed = self._config.algorithm, self._config.run.seed
        return ResponseScorer(
            self._models(), self._forward_of, self._reader, algorithm.kl_estimator, seed, self._rank, self._device
        ).score(batch, spec, spans)

    def publish_weights(self) -> WeightUpdate:
        """Publish the full weights in the engine's dtype. `WeightTransfer.send` says which ranks return a payload.

        While the trainer is offloaded, tensors of the payload may be the trainer's copies in host memory. The next
        `offload` overwrites these copies.
        """
        return self._publisher.publish()

    def send_weights(self, version: int) -> WeightUpdate:
        """As `WeightPublisher.send`. Works also while the trainer is offloaded."""
        return self._publisher.send(version)

    def save(self, path: str) -> None:
        self._memory.need_all()
        save_policy(self._policy, self._config.model, path, is_writer=self._rank == 0)

    def start_checkpoint(self, folder: str) -> None:
        updated = updated_model(self._reference_update)
        state = trainer_state(self._policy, self._optimizer, self._skipped_in_a_row, self._rank, updated)
        self._shards.start(self._memory.readable(state), folder)

    def load_checkpoint(self, folder: str) -> None:
        self._memory.need_all()
        self._publisher.changed()
        updated = updated_model(self._reference_update)
        self._skipped_in_a_row = load_trainer_state(self._policy, self._optimizer, self._rank, folder, updated)

    def offload(self) -> None:
        self._memory.offload()

    def onload(self) -> None:
        self._memory.onload()

    def close(self) -> None:
        self._shards.close()
        self._reader.close()
        leave_group(owned=self._owns_group)

    def _update_once(
        self,
        batch: TrainBatch,
        number: int,
        prepared: PreparedBatch,
        compare_rollout: bool,
    ) -> UpdateOutcome:
        unreadable = {}
        done = self._pass(batch, number, prepared, compare_rollout)
        if done is not None:
            unreadable = agreed(prepared.unreadable(batch.updates[number].ranks[self._rank]), self._device)
        if unreadable:  # the other ranks hear of it only now, after the forwards: repeat them without these prompts
            self._optimizer.clear()
            done = self._pass(without(batch, unreadable), number, prepared, compare_rollout)
        if done is None:
            return UpdateOutcome({"fault/skipped_updates": 0.0}, unreadable, None)
        return self._finish(done, number, unreadable)

    def _pass(
        self, batch: TrainBatch, number: int, prepared: PreparedBatch, compare_rollout: bool
    ) -> UpdatePass | None:
        """Forward and backward of this rank's rows. None if no rank has a token that this update trains on."""
        plan, passes = batch.updates[number], prepared.passes
        responses = [_response(batch, row) for row in plan.rows]
        lengths = [len(response.token_ids) for response in responses if response.weight > 0]
        if not any(lengths):
            return None
        denominator = self._objective.denominator(lengths)
        algorithm, sums = self._config.algorithm, UpdateSums.zeros(self._device)
        used: dict[MicroBatch, Tensor] = {}
        rule_totals = {} if passes is None else passes.totals(batch, plan)
        for micro in plan.ranks[self._rank]:
            rule = None if passes is None else passes.inputs(micro, rule_totals)
            forward = self._forward_of(batch, micro, prepared.prompts)
            logprobs, entropy = self._policy(forward, entropy_gradient=algorithm.entropy_coefficient > 0)
            reference = None
            if self._reference is not None and self._objective.kl_in_loss:
                with torch.no_grad():
                    reference, _ = self._reference(forward)
            old = prepared.old[micro] if number else None
            used[micro] = logprobs.detach() if old is None else old
            loss, part = self._objective.loss(
                logprobs,
                entropy,
                old,
                reference,
                forward.lengths,
                row_targets(batch, micro),
                denominator,
                compare_rollout,
                rule,
            )
            if loss.requires_grad:  # not if the whole update is text and nothing in the language model is trained
                # FSDP averages gradients over ranks, but the denominator already counts all ranks.
                (loss * self._world_size).backward()
            if passes is not None and rule is not None:
                passes.backward(micro, rule)
            sums = sums.merge(part)
        return UpdatePass(batch, sums, denominator, used)

    def _finish(self, done: UpdatePass, number: int, unreadable: Mapping[int, str]) -> UpdateOutcome:
        """Add up the sums of all ranks, then apply or skip the update."""
        totals = done.sums.all_reduce()
        scale = self._objective.kept_scale(totals, done.denominator)
        if scale is None:  # every token is masked
            self._optimizer.clear()
            metrics = self._objective.rollout_metrics(totals)
            return UpdateOutcome({**metrics, "fault/skipped_updates": 0.0}, unreadable, None)
        self._optimizer.scale(scale)
        totals = scaled(totals, scale)
        metrics = self._objective.metrics(totals)
        metrics |= {"actor/rule_loss": totals["rule_loss"]} if self._passes is not None else {}
        result = self._optimizer.step() if math.isfinite(totals["loss"]) else self._optimizer.skip()
        self._skipped_in_a_row = 0 if result.applied else self._skipped_in_a_row + 1
        if result.applied and self._reference_update is not None:
            self._reference_update.after(self._optimizer.num_steps)
        skipped = None
        if not result.applied:
            old = merged_over_ranks(done.old_by_row())
            skipped = SkippedUpdate(number, totals["loss"], result.grad_norm, old)
        metrics |= {
            "actor/grad_norm": result.grad_norm,
            "actor/lr": result.learning_rate,
            "fault/skipped_updates": float(not result.applied),
        }
        return UpdateOutcome(metrics, unreadable, skipped)

    def _check_skipped(self, updates: Sequence[UpdateOutcome]) -> None:
        """Raises NumericalError after too many skipped updates in a row. updates: all of this batch so far."""
        skipped = skipped_updates(updates)
        if self._skipped_in_a_row > self._config.actor.max_skipped_updates:
            raise NumericalError(
                f"actor: {self._skipped_in_a_row} updates in a row had a loss or gradient that is not finite "
                f"(last: loss {skipped[-1].loss}, gradient norm {skipped[-1].grad_norm}); "
                "lower actor.learning_rate or look at the last rollouts",
                skipped,
            )

    @torch.no_grad()
    def _old_scores(self, batch: TrainBatch, plans: Sequence[UpdatePlan], prompts: ReadPrompts) -> Scores:
        """Log-probs and entropies of this rank's rows, in the same micro-batches as in the updates: rounded alike."""
        micros = [micro for plan in plans for micro in plan.ranks[self._rank]]
        return {micro: self._policy(self._forward_of(batch, micro, prompts)) for micro in micros}

    def _old_logprobs(
        self, batch: TrainBatch, plans: Sequence[UpdatePlan], prompts: ReadPrompts
    ) -> dict[MicroBatch, Tensor]:
        return {micro: logprobs for micro, (logprobs, _) in self._old_scores(batch, plans, prompts).items()}

    def _models(self) -> Models:
        models = {"policy": self._policy, "reference": self._reference}
        return {name: model for name, model in models.items() if model is not None}

    def _synchronize(self) -> None:
        """Wait for the GPU, so that time is counted in the right stage."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _forward_of(self, batch: TrainBatch, micro: MicroBatch, prompts: ReadPrompts) -> ForwardBatch:
        rows = [(prompts[row[0]], _response(batch, row).token_ids) for row in micro.rows]
        return with_temperatures(self._forward_batch(rows), batch, micro, self._config.rollout.temperature)

    def _forward_batch(self, rows: Sequence[tuple[ProcessedPrompt, tuple[int, ...]]]) -> ForwardBatch:
        if self._config.actor.packing == "shared_prefix":
            return pack_groups(group_rows(rows), self._policy.positions).to(self._device)
        return forward_batch(rows, self._policy.positions, self._rules.pad_id).to(self._device)


def _response(batch: TrainBatch, row: Row) -> TrainResponse:
    return batch.prompts[row[0]].responses[row[1]]
