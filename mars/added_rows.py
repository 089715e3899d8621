"""Read the rows that a sampler adds to the training set during a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache, partial

from mars.config.schema import TrainConfig
from mars.data.order.stream import PromptStream
from mars.data.prompts.prepare import prepare_rows
from mars.data.rows.dataset import declared_id
from mars.data.rows.files import fingerprint_of
from mars.data.rows.problems import RowProblem, report
from mars.data.rows.saved import FileError
from mars.errors import ConfigError, DataError
from mars.hooks.known_prompts import KnownPrompts, RowsFile
from mars.hooks.prompt_sampler import SampledRounds
from mars.inputs import Inputs, PromptFormat, prompt_stream, rewards_of, row_settings
from mars.types import Prompt

logger = logging.getLogger(__name__)


def training_stream(config: TrainConfig, inputs: Inputs) -> tuple[PromptStream | SampledRounds, Mapping[str, Prompt]]:
    """The order of the training prompts (`prompt_stream`), and all known prompts by id.

    Prompts that a sampler adds during the run appear in the second result.
    """
    assert inputs.train is not None
    prompts = inputs.train.prompts
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    known = KnownPrompts(by_id, partial(read_added, config, inputs), declared_id)
    return prompt_stream(config, prompts, known), known.prompts


def read_added(config: TrainConfig, inputs: Inputs, file: str) -> RowsFile:
    """Read the rows of a file that a sampler adds to the training set during the run.

    Leaves out, with a warning, the rows that `load_inputs` would refuse and rows with more images than the engines
    were started for.
    """
    rewards, form = rewards_of(config), PromptFormat(inputs.encoder, inputs.budget, inputs.frames)
    try:
        rows = prepare_rows([file], row_settings(config, form))
    except (ConfigError, DataError, OSError) as error:
        logger.warning("no row is added: %s", error)
        return RowsFile((), "", 0)
    training = tuple(config.data.train_files)
    # With a single training file this test is not needed: the prompts of a copy have the ids of the training file's
    # prompts, and `KnownPrompts` leaves out ids that it knows.
    if len(training) > 1 and rows.fingerprint in _fingerprints(training):
        logger.warning("%s: has the contents of a training file; no row is added", file)
        return RowsFile((), rows.fingerprint, rows.num_rows)
    problems, most = list(rows.problems), inputs.max_images
    for prompt in rows.prompts:
        if not rewards.has(prompt.data_source):
            problems.append(RowProblem(prompt.row, "data_source", f"no reward for {prompt.data_source!r}"))
        elif len(prompt.sources) > most:
            problems.append(
                RowProblem(
                    prompt.row, "num_images", f"{len(prompt.sources)} images; the engines were started for {most}"
                )
            )
    bad = {problem.row for problem in problems}
    if problems:
        logger.warning("%s", report(problems, rows.num_rows, "the other rows are added"))
    good = tuple(prompt for prompt in rows.prompts if prompt.row not in bad)
    logger.info("%s: %d rows added", file, len(good))
    return RowsFile(good, rows.fingerprint, rows.num_rows - len(good))


@cache
def _fingerprints(files: tuple[str, ...]) -> frozenset[str]:
    """The fingerprint of each file. Warns of a file that cannot be read, and leaves it out."""
    found = set()
    for file in files:
        try:
            found.add(fingerprint_of([file]))
        except (OSError, FileError) as error:
            logger.warning("added rows are not compared with a training file: %s", error)
    return frozenset(found)
