"""The file of questions of `mars eval infer`: find its task, and convert the paper's evaluation files to parquet."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mars.data.convert.eval_json import DEFAULT_DEPTH, eval_json_set, read_json_rows
from mars.data.convert.write import WriteOptions, write_set
from mars.data.rows.columns import truth_of
from mars.data.rows.files import chunks, unusable_files
from mars.data.rows.problems import OnBadSample, RowError
from mars.data.rows.saved import FileError
from mars.errors import DataError
from mars.evaluation.files import ResultPaths
from mars.rewards.built_in import default_for


def readable_file(questions: str, paths: ResultPaths) -> str:
    """The file to read rows from: `questions` itself; for a .json file, the one that `convert_questions` writes."""
    if Path(questions).suffix.lower() != ".json":
        return questions
    return str(paths.questions / f"{Path(questions).stem}.parquet")


def first_task(questions: str) -> str:
    """The built-in reward for questions whose task is not given: `default_for` of the first truth. Raises DataError.

    Questions of other tasks are refused later as bad rows.
    """
    broken = unusable_files([questions], None)
    if broken:
        raise DataError("\n".join(broken))
    task = task_of_rows(questions)
    if task is None and Path(questions).suffix.lower() == ".json":
        raise DataError(f"{questions}: no question with a ground truth; give a list of {{role, content, ground_truth}}")
    return task or default_for("")  # the later reading of the whole file reports what is wrong with it


def task_of_rows(file: str) -> str | None:
    """The built-in reward (`default_for`) for the first readable truth in a file of rows, such as "vqa". None without a
    readable truth or file."""
    if unusable_files([file], None):
        return None
    try:
        for row in (row for chunk in chunks(file, 0, None, read_json_rows) for row in chunk):
            try:
                return default_for(truth_of(row.columns or {}))
            except RowError:
                continue
    except FileError:
        return None
    return None


def convert_questions(
    questions: str, paths: ResultPaths, image_root: str | None, on_bad_sample: OnBadSample
) -> tuple[str, Mapping[str, int]]:
    """Write a .json file of questions as parquet. Returns the folder that image paths in the parquet file start at, and
    how many questions were dropped for each reason.

    Raises DataError as `mars.data.convert.write.write_set` does.
    """
    public = eval_json_set(Path(questions), None if image_root is None else Path(image_root), DEFAULT_DEPTH, None)
    # Truths are not checked here, but by the reward of the settings when the rows are read.
    options = WriteOptions(
        limit=None,
        dry_run=False,
        on_bad_sample=on_bad_sample,
        check_truth=lambda prompt: None,
        drop_by="data.on_bad_sample=drop",
    )
    metadata = write_set(public, paths.questions, options)
    return os.path.realpath(public.image_root), Counter(reason for _, reason, _ in metadata["problems"])
