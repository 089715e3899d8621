"""`python -m mars.sft [key=value ...]`: a supervised cold start, so that a policy knows the response format.

It minimises next-token cross-entropy on the `response` column, in one process, for models that fit into it. Train a
larger model with another supervised trainer and give its Hugging Face folder as `model.path`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mars import interrupts
from mars.errors import ConfigError, NumericalError

if TYPE_CHECKING:
    from mars.actor.batch import ProcessedPrompt
    from mars.config.schema import SftConfig
    from mars.data.prompts.chat import PromptEncoder
    from mars.data.prompts.prepare import PromptSet
    from mars.inputs import PromptFormat
    from mars.run_dir.lock import RunLock
    from mars.types import Prompt

logger = logging.getLogger(__name__)

POLICY_FOLDER = "policy"


class ColdStart:
    """Holds the model, the optimizer and the rows as tensors. Images are processed once, before the first step."""

    def __init__(self, config: SftConfig, encoder: PromptEncoder, prompts: Sequence[Prompt]) -> None:
        import torch

        from mars.actor.model import ScoringSettings, load_policy
        from mars.actor.optimizer import Optimizer

        sft = config.sft
        torch.set_num_threads(sft.num_threads)
        torch.manual_seed(config.run.seed)
        self._config, self._rules = config, encoder.token_rules()
        scoring = ScoringSettings(1.0, self._rules.blocked_ids, sft.logprob_chunk_tokens)
        # "padded", because no two rows share a prompt.
        policy = load_policy(config.model, scoring, packing="padded", gradient_checkpointing=False)
        self.policy = policy.to(sft.device)
        self._optimizer = Optimizer(dict(self.policy.named_parameters()), sft, total_steps=sft.num_steps)
        self._rows = _process_rows(config, encoder, prompts)

    def step(self, prompts: Sequence[Prompt]) -> dict[str, float]:
        """One optimizer step. Raises NumericalError if the gradient is not finite."""
        import torch

        from mars.actor.batch import forward_batch
        from mars.batching.plan import micro_batches

        start = time.perf_counter()
        rows = [self._rows[prompt.prompt_id] for prompt in prompts]
        num_tokens = sum(len(response) for _, response in rows)
        costs = [len(prompt.input_ids) + len(response) for prompt, response in rows]
        total = 0.0
        for indices in micro_batches(costs, self._config.sft.tokens_per_forward):
            batch = forward_batch([rows[i] for i in indices], self.policy.positions, self._rules.pad_id).to(
                torch.device(self._config.sft.device)
            )
            with torch.autocast(
                self._config.sft.device, torch.bfloat16, enabled=self._config.model.dtype == "bfloat16"
            ):
                logprobs, _ = self.policy(batch)
            loss = -logprobs.sum() / num_tokens
            loss.backward()
            total += loss.item()
        result = self._optimizer.step()
        if not result.applied:
            raise NumericalError(f"sft: the gradient is not finite (loss {total}); lower sft.learning_rate")
        return {
            "sft/loss": total,
            "sft/grad_norm": result.grad_norm,
            "sft/lr": result.learning_rate,
            "timing_s/step": time.perf_counter() - start,
        }


def train(config: SftConfig) -> None:
    """Train `model.path` on `data.train_files` and save it to <run.dir>/policy. Raises BusyError while another process
    writes to run.dir."""
    from mars.run_dir.lock import RunLock

    with RunLock(Path(config.run.dir)) as lock:
        _train(config, lock)


def _train(config: SftConfig, lock: RunLock) -> None:
    """lock: of run.dir; taken when rows and model have been checked."""
    from mars.actor.state import save_policy
    from mars.checks.model import model_check
    from mars.data.order.stream import PromptStream
    from mars.inputs import prompt_format
    from mars.output.console import VisibleConsole
    from mars.output.progress import progress
    from mars.process import log_to
    from mars.tracking.jsonl import METRICS_FILE, JsonlTracker

    sft, run_dir = config.sft, Path(config.run.dir)
    with model_check(config, in_process=True):
        form = prompt_format(config)
    prompts = _load_rows(config, form).prompts
    if len(prompts) < sft.batch_size:
        raise ConfigError(
            f"sft.batch_size: a step cannot hold the same row twice; got {sft.batch_size} with {len(prompts)} rows; "
            f"set it to {len(prompts)} or less, or add data"
        )
    stream = PromptStream(prompts, sft.batch_size, config.run.seed, shuffle=True)
    cold_start = ColdStart(config, form.encoder, prompts)
    lock.take()
    tracker = JsonlTracker(run_dir / METRICS_FILE, resumed_step=None)
    log_to(config.run.dir)
    console = VisibleConsole(stderr=True)
    for step in progress(range(1, sft.num_steps + 1), "Cold start", sft.num_steps):
        metrics = cold_start.step(stream.batch(step - 1))
        if step % sft.log_every == 0 or step == sft.num_steps:
            tracker.log(metrics, step)
            console.print(f"{step}/{sft.num_steps}  loss {metrics['sft/loss']:.3f}", highlight=False)
    tracker.close()
    save_policy(cold_start.policy, config.model, str(run_dir / POLICY_FOLDER), is_writer=True)
    logger.info("the model is in %s", run_dir / POLICY_FOLDER)


def _load_rows(config: SftConfig, form: PromptFormat) -> PromptSet:
    """The rows to train on. A row without a response is bad. Raises DataError as `refuse_or_drop` does."""
    from mars.data.prompts.budget import check_names
    from mars.data.prompts.prepare import prepare_rows
    from mars.inputs import row_settings

    rows = prepare_rows(config.data.train_files, row_settings(config, form)).usable(config.data.on_bad_sample)
    check_names(config.data.source_image_pixels, rows.prompts)
    return rows


def _process_rows(
    config: SftConfig, encoder: PromptEncoder, prompts: Sequence[Prompt]
) -> dict[str, tuple[ProcessedPrompt, tuple[int, ...]]]:
    """prompt_id -> (the prompt's tensors, the response's token ids)."""
    from mars.data.prompts.views import render_view
    from mars.inputs import prompt_processor
    from mars.output.progress import progress

    # The cache has no limit, because `rows` keeps all tensors anyway.
    processor = prompt_processor(config, encoder.token_rules(), cached_images=sys.maxsize)
    rows = {}
    for prompt in progress(prompts, "Processing images", len(prompts)):
        messages, images = render_view(prompt, None, "single")
        if prompt.response is None:
            raise ValueError(f"{prompt.row}: the row has no response, which a cold start needs")
        token_ids = encoder.encode(messages, len(images))
        rows[prompt.prompt_id] = (processor.process(token_ids, images), encoder.encode_response(prompt.response))
    return rows


def main(argv: Sequence[str]) -> int:
    from mars.config.command_line import parse_command_line

    line = parse_command_line("sft", "python -m mars.sft", argv)
    from mars.config.load import composed_yaml, load_config

    if line.show_config:
        sys.stdout.write(composed_yaml("sft", line.overrides, line.config_dirs))
        return 0
    config = load_config("sft", line.overrides, line.config_dirs)
    if line.dry_run:
        from mars.checks.model import model_check
        from mars.inputs import prompt_format

        with model_check(config, in_process=True):
            rows = _load_rows(config, prompt_format(config))
        dropped = f", {sum(rows.dropped.values())} dropped {dict(rows.dropped)}" if rows.dropped else ""
        sys.stdout.write(f"{len(rows.prompts)} rows with a response{dropped}; {config.sft.num_steps} steps\n")
        return 0
    train(config)
    return 0


if __name__ == "__main__":
    interrupts.end_at_once()
    from mars.process import run_command

    run_command(lambda: main(sys.argv[1:]))
