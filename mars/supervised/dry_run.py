"""`python -m mars.sft --dry-run`: check settings, rows and model, and print facts about the planned cold start."""

from __future__ import annotations

import sys
from statistics import fmean

from mars.checks.dry_run import IN_ORDER, histogram, opening_lines, rank_fit_lines, rank_memory_lines
from mars.checks.model import model_check
from mars.checks.packages import machine_lines
from mars.checks.trackers import with_checked_trackers
from mars.config.schema import SftConfig
from mars.fit import last_step
from mars.output.text import visible
from mars.supervised.rows import SupervisedRows, load_rows, stream_of, warmup_warning
from mars.supervised.views import response_of

_ROWS = "rows with a response"


def report(config: SftConfig) -> None:
    """Do the checks of a cold start, which decode every image in full. Raises the errors of a cold start."""
    config = with_checked_trackers(config)
    with model_check(config, in_process=True):
        rows = load_rows(config)
    lines = [*summary(config, rows), *rank_memory_lines(config.model, config.sft, with_reference=False)]
    if config.cluster.device == "cuda":
        lines += rank_fit_lines(config.model, config.sft, config.cluster.gpu_memory_gib)
    lines += machine_lines(config)
    lines.append(IN_ORDER)
    sys.stdout.write("".join(f"{visible(line)}\n" for line in lines))


def summary(config: SftConfig, rows: SupervisedRows) -> list[str]:
    """The numbers of rows, tokens, steps and epochs, one fact per line."""
    sft, train = config.sft, rows.train
    prompts, lengths = train.prompts, train.lengths
    held_out = "none" if rows.held_out is None else rows.held_out.counted(_ROWS)
    responses = {p.row: len(rows.form.encoder.encode_response(response_of(p, None))) for p in prompts}
    steps = last_step(config.run, stream_of(config, rows))
    longest = max(lengths[row] + count for row, count in responses.items())
    warning = warmup_warning(sft.warmup_steps, steps)
    return [
        f"training set      {train.counted(_ROWS)}",
        f"held-out set      {held_out}",
        f"sources           {histogram([len(prompt.sources) for prompt in prompts])}",
        f"mono views        {rows.num_mono} rows have one; a step shows {sft.mono_ratio:.0%} of them by one",
        f"prompt tokens     mean {fmean(lengths.values()):.0f}, longest {max(lengths.values())} of "
        f"{config.data.max_prompt_tokens} allowed",
        *opening_lines(rows.form.encoder),
        f"response tokens   mean {fmean(responses.values()):.0f}, longest {max(responses.values())}",
        f"longest row       {longest} tokens; a forward has up to {sft.tokens_per_forward}",
        f"steps             {steps} = {steps * sft.batch_size / len(prompts):.2f} epochs",
        f"a step            {sft.batch_size} rows over {sft.num_workers} rank(s)",
        *([f"warning           {warning}"] if warning else []),
    ]
