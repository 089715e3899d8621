"""`mars data convert SET SRC OUT`: run a converter, and check that a built-in reward can score each truth."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from mars.config.folders import quoted
from mars.data.convert.public_set import PublicSet
from mars.data.convert.write import WriteOptions, summary_lines, write_set
from mars.data.prompts.boxes import truth_frame
from mars.data.rows.problems import OnBadSample
from mars.rewards.built_in import BUILT_IN, default_for
from mars.rewards.contract import BuiltInReward
from mars.types import Prompt


def run_conversion(
    public: PublicSet,
    out: Path,
    reward: BuiltInReward | None,
    *,
    limit: int | None,
    dry_run: bool,
    on_bad_sample: OnBadSample,
    licence: str | None,
) -> None:
    """Convert, and write the counts to stdout.

    reward: checks all truths. None: each truth is checked with the reward that `default_for` gives for it.
    licence: written to the metadata in place of the public set's.
    Raises DataError, see `write_set`.
    """
    if licence is not None:
        public = replace(public, licence=licence)
    options = WriteOptions(
        limit, dry_run, on_bad_sample, partial(_problem_of_truth, reward), drop_by="--on-bad-sample drop"
    )
    metadata = write_set(public, out, options)
    sys.stdout.write("".join(f"{_printable(line)}\n" for line in summary_lines(metadata)))
    if dry_run:
        sys.stdout.write("dry run: nothing was written\n")
        return
    where = (
        "" if metadata["image_paths_relative_to"] == "this folder" else f"; {_image_root_setting(public.image_root)}"
    )
    files = ", ".join(str(out / f"{name}.parquet") for name in metadata["splits"])
    sys.stdout.write(_printable(f"written      {files}{where}") + "\n")


def _problem_of_truth(reward: BuiltInReward | None, prompt: Prompt) -> str | None:
    reward = reward or BUILT_IN[default_for(prompt.truth)]
    return reward.check_truth(prompt.truth, prompt.extra_info, truth_frame(prompt))


def _image_root_setting(folder: Path) -> str:
    """The override data.image_root=... with an absolute path, quoted for the shell and for Hydra if needed."""
    path = os.path.realpath(folder)
    plain = re.fullmatch(r"[\w./-]+", path, re.ASCII) is not None
    return shlex.quote(f"data.image_root={path if plain else quoted(path)}")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
