"""Result files: where `mars eval infer` puts its answers, and the one reader of every kind of result.

Kinds of results: those of `mars eval infer` (answers and a manifest), a file of answers that a run kept
(rollouts/step_000010.jsonl, evaluation/step_000010.jsonl), and a JSON list in the public format.
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

    manifest: what was asked. lock: held while the results are written. logs: run.dir of the job, for logs of workers.
    questions: folder of an official evaluation file converted to rows. prefix: starts the names of public files; None
    if the results have a folder of their own.
    """

    answers: Path
    manifest: Path
    lock: Path
    logs: Path
    questions: Path
    folder: Path
    prefix: str | None

    def public(self, view: View) -> Path:
        """The file in the public format: multi.json, mono_infrared.json; OUT.json, OUT.mono_infrared.json."""
        mono = f"mono_{view_name(view)}"
        if self.prefix is None:
            return self.folder / ("multi.json" if view is None else f"{mono}.json")
        return self.folder / (f"{self.prefix}.json" if view is None else f"{self.prefix}.{mono}.json")


def result_paths(out: Path) -> ResultPaths:
    """If OUT is a folder: answers.jsonl, manifest.json, multi.json, mono_<source>.json in it.

    If OUT ends with .json or .jsonl: OUT.jsonl, OUT.manifest.json, OUT.json, OUT.mono_<source>.json beside each other.
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

    Raises SetupError where nothing can be written; ConfigError where OUT is the file of questions itself;
    DataError where OUT holds a file of the public format that `mars eval infer` did not write.
    """
    public = paths.public(None)
    if Path(questions).resolve() in {path.resolve() for path in (public, paths.answers, paths.manifest)}:
        raise ConfigError(f"OUT: {questions} is the file of questions, which would be overwritten; give another OUT")
    check_writable(paths.answers, "OUT")
    if public.exists() and not paths.answers.exists():
        raise DataError(f"{public}: is not of mars eval infer ({paths.answers} is missing); give another OUT")


@dataclass(frozen=True)
class Results:
    """The answers of one result file, sorted by question, view and sample.

    manifest: what `mars eval infer` was asked (see `read_manifest`); {} for the other kinds.
    public: read from the public format, which has no sources, image sizes and prompt ids.
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
        """Bad questions that were left out before anything was asked, by reason."""
        return self.manifest.get("dropped", {})


def read_results(path: Path) -> Results:
    """Complete results of any kind: a folder or .jsonl file of answers, or a JSON list in the public format.

    Raises DataError: no such file; a table of all lines or entries that cannot be used; answers that are still missing.
    """
    if not _holds_answers(path):
        return Results(path, path.stem, read_public(path), {}, public=True)
    paths = result_paths(path)
    answers = read_answers(paths.answers).checked()
    if answers and all(answer.step is not None for answer in answers):  # a run writes its files whole: no manifest
        manifest: Mapping[str, Any] = {}
    else:
        manifest = read_manifest(paths.manifest)
        _check_complete(path, answers, manifest)
    _check_multi(path, answers)
    return Results(path, _name(path), answers, manifest, public=False)


def read_partial(path: Path) -> tuple[Results, list[str]]:
    """As `read_results`, for looking at answers while some are missing or damaged: the usable ones, and notes on the
    others. Raises DataError where nothing can be read."""
    if not _holds_answers(path):
        return read_results(path), []
    paths = result_paths(path)
    file = read_answers(paths.answers)
    manifest = read_manifest(paths.manifest) if paths.manifest.exists() else {}
    return Results(path, _name(path), file.answers, manifest, public=False), file.notes


def read_manifest(path: Path) -> Mapping[str, Any]:
    """{"identity": what the answers depend on, by name, "asked": {view: answers}, "dropped": {reason: rows}}.

    Raises DataError where there is none.
    """
    try:
        manifest = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}; run mars eval infer again into a new folder") from error
    parts = manifest if isinstance(manifest, dict) else {}
    identity = parts.get("identity")
    named = isinstance(identity, dict) and isinstance(identity.get("model"), str)
    if not (named and _are_counts(parts.get("asked")) and _are_counts(parts.get("dropped"))):
        raise DataError(f"{path}: does not say what was asked; run mars eval infer again into a new folder")
    return parts


def _holds_answers(path: Path) -> bool:
    return os.path.isdir(path) or path.suffix == ".jsonl"


def _name(path: Path) -> str:
    return path.resolve().name if os.path.isdir(path) else path.stem


def _check_complete(path: Path, answers: Sequence[Answer], manifest: Mapping[str, Any]) -> None:
    asked, have = Counter(manifest["asked"]), Counter(view_name(answer.view) for answer in answers)
    for problem, numbers, remedy in (
        ("answers are missing", asked - have, "run the same mars eval infer again, it goes on there"),
        ("answers to more than was asked", have - asked, "run mars eval infer again into a new folder"),
    ):
        if numbers:
            table = ", ".join(f"{view} {number}" for view, number in numbers.items())
            raise DataError(f"{path}: {problem} ({visible(table)}); {remedy}")
    if not answers:
        raise DataError(f"{path}: holds no answers; run mars eval infer")


def _check_multi(path: Path, answers: Sequence[Answer]) -> None:
    """Raises DataError where only some questions have an answer to their multi view."""
    with_multi = {answer.prompt_id for answer in answers if answer.view is None}
    without = {answer.prompt_id: answer.row for answer in answers if answer.prompt_id not in with_multi}
    if with_multi:
        problems = [(row, "no answer with all images, which others have") for row in without.values()]
        refuse(problems, path, len(with_multi) + len(without), "questions")


def _are_counts(counts: Any) -> bool:
    return isinstance(counts, dict) and all(type(count) is int and count >= 0 for count in counts.values())
