"""Paths of the files that `mars eval infer` writes, and the reader of all kinds of result files.

There are three kinds: answers and a manifest, written by `mars eval infer`; a file of answers from a training run
(rollouts/step_000010.jsonl, evaluation/step_000010.jsonl); and a JSON list in the public format
(mars/evaluation/public.py).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.answers.files import read_answers
from mars.answers.record import Answer
from mars.errors import ConfigError, DataError
from mars.evaluation.public import read_public
from mars.output.files import check_writable, read_bytes
from mars.output.problems import refuse
from mars.output.text import visible
from mars.types import View, view_name


@dataclass(frozen=True)
class ResultPaths:
    """The files of one model's answers to one set of questions.

    manifest: what was asked. lock: held while the results are written.
    logs: run.dir of `mars eval infer`, which has the logs of its workers.
    questions: folder for the rows converted from one of the paper's evaluation files.
    prefix: start of the names of files in the public format; None if the results have a folder of their own.
    """

    answers: Path
    manifest: Path
    lock: Path
    logs: Path
    questions: Path
    folder: Path
    prefix: str | None

    def public(self, view: View) -> Path:
        """The view's file in the public format."""
        mono = f"mono_{view_name(view)}"
        if self.prefix is None:
            return self.folder / ("multi.json" if view is None else f"{mono}.json")
        return self.folder / (f"{self.prefix}.json" if view is None else f"{self.prefix}.{mono}.json")


def result_paths(out: Path) -> ResultPaths:
    """The files for the argument OUT.

    A folder holds answers.jsonl, manifest.json, multi.json and mono_<source>.json. If OUT is NAME.json or NAME.jsonl,
    the files are NAME.jsonl, NAME.manifest.json, NAME.json and NAME.mono_<source>.json.
    """
    if out.suffix in (".json", ".jsonl") and not os.path.isdir(out):
        folder, stem = out.parent, out.stem
        return ResultPaths(
            answers=folder / f"{stem}.jsonl",
            manifest=folder / f"{stem}.manifest.json",
            lock=folder / f".{stem}.lock",
            logs=folder / f"{stem}.run",
            questions=folder / f"{stem}.questions",
            folder=folder,
            prefix=stem,
        )
    return ResultPaths(
        answers=out / "answers.jsonl",
        manifest=out / "manifest.json",
        lock=out / ".lock",
        logs=out / "run",
        questions=out / "questions",
        folder=out,
        prefix=None,
    )


def check_out(paths: ResultPaths, questions: str) -> None:
    """Create the folder of the results and check that they can be written, before anything slow starts.

    Raises
    - SetupError if the folder cannot be written;
    - ConfigError if OUT is the file of questions;
    - DataError if OUT holds a file of the public format that `mars eval infer` did not write.
    """
    public = paths.public(None)
    if os.path.realpath(questions) in map(os.path.realpath, (public, paths.answers, paths.manifest)):
        raise ConfigError(f"OUT: {questions} is the file of questions, which would be overwritten; give another OUT")
    check_writable(paths.answers, "OUT")
    if public.exists() and not paths.answers.exists():
        raise DataError(f"{public}: was not written by mars eval infer ({paths.answers} is missing); give another OUT")


@dataclass(frozen=True)
class Results:
    """The answers of one result file, sorted by question, view and sample.

    manifest: what `mars eval infer` was asked (see `read_manifest`); {} for files of other kinds.
    public: whether the file has the public format, which has no sources, image sizes or prompt ids.
    """

    path: Path
    name: str
    answers: tuple[Answer, ...]
    manifest: Mapping[str, Any]
    public: bool

    @property
    def model(self) -> str:
        """Path or hub name of the model that answered, or "policy at step 50" for files of a run."""
        if self.manifest:
            return self.manifest["identity"]["model"]
        steps = sorted({answer.step for answer in self.answers if answer.step is not None})
        return f"policy at step {', '.join(map(str, steps))}" if steps else "unknown"

    @property
    def dropped(self) -> Mapping[str, int]:
        """reason -> number of bad questions, which were left out before the model was asked."""
        return self.manifest["dropped"] if self.manifest else {}

    @property
    def unreadable(self) -> Mapping[str, str]:
        """prompt id -> reason, of the questions that were left out because an image could not be read any more."""
        return self.manifest["unreadable"] if self.manifest else {}


def read_results(path: Path) -> Results:
    """Read complete results of any kind: a folder or .jsonl file of answers, or a JSON list in the public format.
    Answers to a recipe's extra requests are left out: they answer other questions.

    Raises DataError if there is no such file, if lines or entries cannot be used (with a table of all of them), or if
    answers are still missing.
    """
    if not _holds_answers(path):
        return Results(path, path.stem, read_public(path), {}, public=True)
    paths = _paths_of_answers(path)
    answers = tuple(answer for answer in read_answers(paths.answers).checked() if answer.extra is None)
    if not answers and not (paths.manifest.exists() and any(read_manifest(paths.manifest)["asked"].values())):
        raise DataError(f"{path}: holds no answers; run mars eval infer, or give another step's file of a run")
    if answers and all(answer.step is not None for answer in answers):
        manifest: Mapping[str, Any] = {}  # a training run writes complete files without a manifest
    else:
        manifest = read_manifest(paths.manifest)
        _check_complete(path, answers, manifest)
    _check_multi(path, answers)
    return Results(path, _name(path), answers, manifest, public=False)


def read_partial(path: Path) -> tuple[Results, list[str]]:
    """Read results in which answers may be missing or damaged. Returns the usable answers, and notes on lines
    that cannot be used.

    Raises DataError if the file of answers cannot be read, if the manifest beside it is damaged, or if a file in the
    public format has an entry that cannot be used.
    """
    if not _holds_answers(path):
        return read_results(path), []
    paths = _paths_of_answers(path)
    file = read_answers(paths.answers)
    manifest = read_manifest(paths.manifest) if paths.manifest.exists() else {}
    return Results(path, _name(path), file.answers, manifest, public=False), file.notes


def read_manifest(path: Path) -> Mapping[str, Any]:
    """Read {"identity": {setting: value}, "asked": {view: count}, "dropped": {reason: count},
    "unreadable": {prompt id: reason}}.

    identity: everything that the answers depend on. asked: number of answers asked for. dropped: number of bad rows
    that were left out. Raises DataError if the file is missing or not a manifest.
    """
    try:
        manifest = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}; run mars eval infer again into a new folder") from error
    parts = manifest if isinstance(manifest, dict) else {}
    identity = parts.get("identity")
    named = isinstance(identity, dict) and isinstance(identity.get("model"), str)
    counted = _are_counts(parts.get("asked")) and _are_counts(parts.get("dropped"))
    if not (named and counted and isinstance(parts.get("unreadable"), dict)):
        raise DataError(f"{path}: is not a manifest of mars eval infer; run mars eval infer again into a new folder")
    return parts


def _paths_of_answers(path: Path) -> ResultPaths:
    """As `result_paths`, but raises DataError for a run's folder. The message names files there that have answers."""
    paths = result_paths(path)
    if os.path.isdir(path) and not paths.answers.exists():
        folders = (path, path / "evaluation", path / "rollouts")
        files = [str(max(found)) for found in (list(folder.glob("step_*.jsonl")) for folder in folders) if found]
        if files:
            raise DataError(
                f"{path}: is the folder of a run, which has answers of several steps; give {' or '.join(files)}"
            )
    return paths


def _holds_answers(path: Path) -> bool:
    return os.path.isdir(path) or path.suffix == ".jsonl"


def _name(path: Path) -> str:
    return os.path.basename(os.path.realpath(path)) if os.path.isdir(path) else path.stem


def _check_complete(path: Path, answers: Sequence[Answer], manifest: Mapping[str, Any]) -> None:
    asked, have = Counter(manifest["asked"]), Counter(view_name(answer.view) for answer in answers)
    for problem, numbers, remedy in (
        ("answers are missing", asked - have, "run the same mars eval infer again to ask for them"),
        ("more answers than were asked for", have - asked, "run mars eval infer again into a new folder"),
    ):
        if numbers:
            table = ", ".join(f"{view} {number}" for view, number in numbers.items())
            raise DataError(f"{path}: {problem} ({visible(table)}); {remedy}")


def _check_multi(path: Path, answers: Sequence[Answer]) -> None:
    """Raises DataError if some questions have an answer to the multi view and others do not."""
    with_multi = {answer.prompt_id for answer in answers if answer.view is None}
    without = {answer.prompt_id: answer.row for answer in answers if answer.prompt_id not in with_multi}
    if with_multi:
        problems = [(row, "no answer to the multi view, but other questions have one") for row in without.values()]
        refuse(problems, path, len(with_multi) + len(without), "questions")


def _are_counts(counts: Any) -> bool:
    return isinstance(counts, dict) and all(type(count) is int and count >= 0 for count in counts.values())
