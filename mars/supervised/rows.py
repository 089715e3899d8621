"""The rows of a cold start, checked before any rank starts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mars.config.schema import SftConfig
from mars.data.order.stream import PromptStream
from mars.data.prompts.budget import check_limits
from mars.data.prompts.prepare import PromptSet, prepare_files
from mars.data.rows.problems import refuse_or_drop
from mars.errors import ConfigError
from mars.inputs import PromptFormat, prompt_format, row_settings
from mars.supervised.views import usable_views


@dataclass(frozen=True)
class SupervisedRows:
    """The checked rows, and how to write prompts for the model. held_out: None without data.eval_files."""

    form: PromptFormat
    train: PromptSet
    held_out: PromptSet | None

    @property
    def num_mono(self) -> int:
        """Number of training rows that can be shown as a mono view."""
        return sum(bool(usable_views(prompt)) for prompt in self.train.prompts)


def load_rows(config: SftConfig) -> SupervisedRows:
    """Load and check the rows; a row without a response is bad. Raises DataError as `refuse_or_drop` does, SetupError
    without model files, and ConfigError for settings that do not fit the rows."""
    data, form = config.data, prompt_format(config)
    settings = row_settings(config, form)
    if config.sft.mono_ratio > 0:
        settings = replace(settings, shown_views=usable_views)
    prepared = prepare_files({"train": (data.train_files, settings), "held out": (data.eval_files, settings)})
    if data.on_bad_sample == "error":
        problems = [problem for rows in prepared.values() for problem in rows.problems]
        refuse_or_drop(problems, sum(rows.num_rows for rows in prepared.values()), "error")
    usable = {name: rows.usable(data.on_bad_sample) for name, rows in prepared.items()}
    _check_batch_size(config, usable["train"])
    check_limits(data.source_image_pixels, form.budget, [p for rows in usable.values() for p in rows.prompts])
    found = SupervisedRows(form, usable["train"], usable.get("held out"))
    if config.sft.mono_ratio > 0 and not found.num_mono:
        raise ConfigError(
            "sft.mono_ratio: no row can be shown as a mono view: none has several sources and a response that fits one "
            f"of them; got {config.sft.mono_ratio}; set it to 0, or add mono_responses to rows (docs/cold_start.md)"
        )
    return found


def stream_of(config: SftConfig, rows: SupervisedRows) -> PromptStream:
    """The order of the rows."""
    return PromptStream(rows.train.prompts, config.sft.batch_size, config.run.seed, shuffle=True)


def _check_batch_size(config: SftConfig, train: PromptSet) -> None:
    """Raises ConfigError if a step would have a row twice."""
    number, size = len(train.prompts), config.sft.batch_size
    if number < size:
        raise ConfigError(
            f"sft.batch_size: a step cannot hold the same row twice; got {size} with {number} rows; "
            f"set it to {number} or less, or add data"
        )


def warmup_warning(warmup_steps: int, last: int) -> str | None:
    """Why a run of `last` steps never reaches its learning rate; None if it does."""
    if warmup_steps < last:
        return None
    return (
        f"sft.warmup_steps: not below the run's {last} steps, so the learning rate only rises, to "
        f"{last / (warmup_steps + 1):.0%} of sft.learning_rate; got {warmup_steps}; lower it, or train for longer"
    )
