"""One FSDP2 rank of the cold start's trainer. All ranks get the same calls and batches; each computes its own rows."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from mars.actor.batch import ForwardBatch, forward_batch
from mars.actor.memory import PeakMemory
from mars.actor.model import ScoringSettings
from mars.actor.optimizer import Optimizer
from mars.actor.process_group import join_group, leave_group
from mars.actor.reading import Process, PromptReader, ReadPrompts, agreed
from mars.actor.sharding import mesh_of_ranks
from mars.actor.shards import ShardWriter, load_trainer_state, trainer_state
from mars.actor.shared_prefix import group_rows, pack_groups
from mars.actor.state import save_policy
from mars.actor.trained_policy import trained_policy
from mars.actor.trainer import Rendezvous
from mars.algorithms.token_layout import TokenLayout
from mars.config.schema import SftConfig
from mars.errors import DataError, NumericalError
from mars.train_types import MicroBatch, TrainBatch, UpdatePlan
from mars.types import TokenRules


class FsdpSupervisedTrainer:
    """A `SupervisedTrainer`. total_steps: the step at which the learning rate reaches 0."""

    def __init__(
        self, config: SftConfig, rules: TokenRules, rendezvous: Rendezvous, process: Process, total_steps: int
    ) -> None:
        self._config, self._rules = config, rules
        self._reader = PromptReader(process)
        self._rank, self._world_size = rendezvous.rank, rendezvous.world_size
        sft, device = config.sft, config.cluster.device
        self._owns_group = join_group(rendezvous, device)
        self._device = torch.device(device, torch.cuda.current_device()) if device == "cuda" else torch.device(device)
        torch.manual_seed(config.run.seed)
        mesh = mesh_of_ranks(device, self._world_size, sft.fsdp_size)
        scoring = ScoringSettings(1.0, rules.blocked_ids, sft.logprob_chunk_tokens)
        self._policy = trained_policy(config.model, sft, scoring, sft.forward_packing, mesh, config.run.seed)
        self._optimizer = Optimizer(dict(self._policy.named_parameters()), sft, total_steps)
        self._shards = ShardWriter()

    def update(self, batch: TrainBatch) -> dict[str, float]:
        memory = PeakMemory(self._device)
        (plan,) = batch.updates
        prompts = self._reader.start(batch, batch.updates, self._rank)
        num_tokens = sum(len(batch.prompts[p].responses[k].token_ids) for p, k in plan.rows)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for micro in plan.ranks[self._rank]:
            logprobs, _ = self._logprobs(batch, micro, prompts)
            loss = -logprobs.sum() / num_tokens
            if loss.requires_grad:  # not if the whole step is text and nothing in the language model is trained
                # FSDP averages gradients over ranks, but num_tokens already counts all ranks.
                (loss * self._world_size).backward()
            total += loss.detach()
        self._refuse_unreadable(plan, prompts)
        dist.all_reduce(total)
        result = self._optimizer.step()
        if not result.applied:
            raise NumericalError(f"sft: the gradient is not finite (loss {total.item()}); lower sft.learning_rate")
        metrics = {
            "sft/loss": total.item(),
            "sft/grad_norm": result.grad_norm,
            "sft/lr": result.learning_rate,
            "sft/tokens": num_tokens,
        }
        return metrics | memory.metrics()

    @torch.no_grad()
    def losses(self, batch: TrainBatch) -> list[float]:
        (plan,) = batch.updates
        prompts = self._reader.start(batch, batch.updates, self._rank)
        sums = torch.zeros(len(batch.prompts), dtype=torch.float64, device=self._device)
        for micro in plan.ranks[self._rank]:
            logprobs, lengths = self._logprobs(batch, micro, prompts)
            by_row = TokenLayout.packed(lengths).sum_by_sequence(-logprobs.double())
            sums[torch.tensor([p for p, _ in _rows(micro)], dtype=torch.long, device=self._device)] = by_row
        self._refuse_unreadable(plan, prompts)
        dist.all_reduce(sums)  # each rank filled only its own rows; the sum gathers them
        return sums.tolist()

    def save(self, path: str) -> None:
        save_policy(self._policy, self._config.model, path, is_writer=self._rank == 0)

    def start_checkpoint(self, folder: str) -> None:
        self._shards.start(trainer_state(self._policy, self._optimizer, 0, self._rank), folder)

    def load_checkpoint(self, folder: str) -> None:
        load_trainer_state(self._policy, self._optimizer, self._rank, folder)

    def close(self) -> None:
        self._shards.close()
        self._reader.close()
        leave_group(owned=self._owns_group)

    def _logprobs(self, batch: TrainBatch, micro: MicroBatch, prompts: ReadPrompts) -> tuple[Tensor, Tensor]:
        """Log-probs of a forward's response tokens, and lengths of its responses, without fillers (`MicroBatch`)."""
        forward = self._forward_of(batch, micro, prompts)
        logprobs, _ = self._policy(forward)
        counted = _rows(micro)
        num_tokens = sum(len(batch.prompts[p].responses[k].token_ids) for p, k in counted)
        return logprobs[:num_tokens], forward.lengths[: len(counted)]

    def _forward_of(self, batch: TrainBatch, micro: MicroBatch, prompts: ReadPrompts) -> ForwardBatch:
        rows = [(prompts[p], batch.prompts[p].responses[k].token_ids) for p, k in micro.rows]
        if self._config.sft.packing == "packed":
            return pack_groups(group_rows(rows), self._policy.positions).to(self._device)
        return forward_batch(rows, self._policy.positions, self._rules.pad_id).to(self._device)

    def _refuse_unreadable(self, plan: UpdatePlan, prompts: ReadPrompts) -> None:
        """Raises DataError on all ranks if a rank could not read an image, and clears the gradients before."""
        unreadable = agreed(prompts.unreadable(plan.ranks[self._rank]), self._device)
        if unreadable:
            self._optimizer.clear()
            lines = "\n".join(unreadable.values())
            raise DataError(f"data: images cannot be read any more:\n{lines}\nrestore them, then resume the run")


def _rows(micro: MicroBatch) -> tuple[tuple[int, int], ...]:
    """The rows of a forward without its fillers."""
    return micro.rows[: len(micro.rows) - micro.num_fillers]
