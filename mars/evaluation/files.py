"""Result files: ours (JSONL, one answer a line, beside a file that says what was asked), or a public one."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.errors import ConfigError, DataError
from mars.evaluation.answers import Answer, from_record, view_name
from mars.evaluation.public import read_public
from mars.output.files import check_writable, read_bytes, refuse
from mars.output.text import visible
from mars.types import View


@dataclass(frozen=True)
class ResultPaths:
    """Where the results of one model on one set of questions are.

    about: what was asked. lock: held while they are written. logs: of workers, where there are any. questions: an
    official evaluation file as rows. prefix: goes before the names of public files; None in a folder of their own.
    """

    answers: Path
    about: Path
    lock: Path
    logs: Path
    questions: Path
    folder: Path
    prefix: str | None

    def public(self, view: View) -> Path:
        if self.prefix is None:
            return self.folder / f"{view_name(view)}.json"
        return self.folder / (f"{self.prefix}.json" if view is None else f"{self.prefix}.{view_name(view)}.json")


def result_paths(out: Path) -> ResultPaths:
    """OUT is a folder: answers.jsonl, about.json, multi.json, mono_<source>.json in it. OUT ends with .json or .jsonl:
    OUT.jsonl, OUT.about.json, and in the public format OUT.json and OUT.mono_<source>.json beside each other."""
    if out.suffix in (".json", ".jsonl") and not os.path.isdir(out):
        folder, stem = out.parent, out.stem
        return ResultPaths(
            answers=folder / f"{stem}.jsonl",
            about=folder / f"{stem}.about.json",
            lock=folder / f".{stem}.lock",
            logs=folder / f"{stem}.run",
            questions=folder / f"{stem}.questions",
            folder=folder,
            prefix=stem,
        )
    names = {
        "answers": "answers.jsonl",
        "about": "about.json",
        "lock": ".lock",
        "logs": "run",
        "questions": "questions",
    }
    return ResultPaths(**{name: out / file for name, file in names.items()}, folder=out, prefix=None)


def check_out(paths: ResultPaths, questions: str) -> None:
    """Make the folder of the results, before anything that takes long.

    Raises SetupError where nothing can be written; ConfigError where OUT is the file of questions itself;
    DataError where OUT holds a file of the public format that is not of these results: it would be overwritten.
    """
    public = paths.public(None)
    if Path(questions).resolve() in {path.resolve() for path in (public, paths.answers, paths.about)}:
        raise ConfigError(f"OUT: {questions} is the file of questions, which would be overwritten; give another OUT")
    check_writable(paths.answers, "OUT")
    if public.exists() and not paths.answers.exists():
        raise DataError(f"{public}: is not of mars eval infer ({paths.answers} is missing); give another OUT")


@dataclass(frozen=True)
class Results:
    """The answers of one result file, by question, then view, then sample.

    about: what is known of how they came about (`mars.evaluation.ask`); {} for the public format.
    public: read from the public format, in which sources, image sizes and prompt ids are unknown.
    """

    path: Path
    name: str
    answers: tuple[Answer, ...]
    about: Mapping[str, Any]
    public: bool

    @property
    def model(self) -> str:
        """Path or name of the model that answered; the public format does not say."""
        return "unknown" if self.public else self.about["identity"]["model"]

    @property
    def dropped(self) -> Mapping[str, int]:
        """Bad questions that were left out before anything was asked, by reason."""
        return {} if self.public else self.about["dropped"]


def read_results(path: Path) -> Results:
    """Results of `mars eval infer` (its folder, or the .jsonl file), or a JSON list in the public format.

    Raises DataError: no such file; every entry that cannot be used, in one table; answers that are still missing.
    """
    if os.path.isdir(path) or path.suffix == ".jsonl":
        paths = result_paths(path)
        name = path.resolve().name if os.path.isdir(path) else path.stem
        answers, _ = read_answers(paths.answers, drop_cut_line=False)
        about = read_about(paths.about)
        _check_complete(path, answers, about)
        return Results(path, name, answers, about, public=False)
    return Results(path, path.stem, read_public(path), {}, public=True)


def read_answers(path: Path, *, drop_cut_line: bool) -> tuple[tuple[Answer, ...], bool]:
    """The answers of a JSONL file in the order of the questions; whether a last line that was cut off was left out.

    Raises DataError with all lines that cannot be used, the cut one too unless `drop_cut_line`.
    """
    lines = read_bytes(path).split(b"\n")
    if not lines[-1]:
        lines.pop()
    read: dict[Any, Answer] = {}
    truths: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    cut = False
    for number, line in enumerate(lines):
        try:
            answer = from_record(json.loads(line))
        except (ValueError, RecursionError) as error:
            if drop_cut_line and number == len(lines) - 1:
                cut = True
            else:
                problems.append((f"{path}:{number}", str(error)))
            continue
        if answer.key in read:
            problems.append((f"{path}:{number}", f"the same answer as an earlier line: {answer.key}"))
        if truths.setdefault(answer.prompt_id, answer.truth) != answer.truth:
            problems.append((f"{path}:{number}", f"another truth than an earlier line of {answer.prompt_id}"))
        read[answer.key] = answer
    refuse(problems, path, len(lines), "lines")
    return tuple(sorted(read.values(), key=lambda answer: answer.order)), cut


def read_about(path: Path) -> Mapping[str, Any]:
    """What a results' about.json says. Raises DataError where there is none."""
    try:
        about = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}; run mars eval infer again into a new folder") from error
    parts = about if isinstance(about, dict) else {}
    identity = parts.get("identity")
    named = isinstance(identity, dict) and isinstance(identity.get("model"), str)
    if not (named and _are_counts(parts.get("asked")) and _are_counts(parts.get("dropped"))):
        raise DataError(f"{path}: does not say what was asked; run mars eval infer again into a new folder")
    return about


def _check_complete(path: Path, answers: Sequence[Answer], about: Mapping[str, Any]) -> None:
    asked, have = Counter(about["asked"]), Counter(view_name(answer.view) for answer in answers)
    for problem, numbers, remedy in (
        ("answers are missing", asked - have, "run the same mars eval infer again, it goes on there"),
        ("answers to more than was asked", have - asked, "run mars eval infer again into a new folder"),
    ):
        if numbers:
            table = ", ".join(f"{view} {number}" for view, number in numbers.items())
            raise DataError(f"{path}: {problem} ({visible(table)}); {remedy}")
    if not answers:
        raise DataError(f"{path}: holds no answers; run mars eval infer")
    with_multi = {answer.prompt_id for answer in answers if answer.view is None}
    without = {answer.prompt_id: answer.row for answer in answers if answer.prompt_id not in with_multi}
    if with_multi:
        problems = [(row, "no answer with all images, which others have") for row in without.values()]
        refuse(problems, path, len(with_multi) + len(without), "questions")


def _are_counts(counts: Any) -> bool:
    return isinstance(counts, dict) and all(type(count) is int and count >= 0 for count in counts.values())
