"""Result files: ours (JSONL, one answer a line, beside a file that says what was asked) and the public format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.errors import DataError
from mars.results.answers import Answer, from_record, view_name
from mars.types import View

_PROBLEMS_SHOWN = 30


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
    if out.suffix in (".json", ".jsonl") and not out.is_dir():
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


@dataclass(frozen=True)
class Results:
    """The answers of one result file, by question, then view, then sample.

    about: what is known of how they came about (`mars.results.infer`); {} for the public format.
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
        return "unknown" if self.public else str(self.about["identity"]["model"])

    @property
    def dropped(self) -> Mapping[str, int]:
        """Bad questions that were left out before anything was asked, by reason."""
        return {} if self.public else self.about["dropped"]


def read_results(path: Path) -> Results:
    """Results of `mars eval infer` (its folder, or the .jsonl file), or a JSON list in the public format.

    Raises DataError: no such file; every entry that cannot be used, in one table; answers that are still missing.
    """
    if path.is_dir() or path.suffix == ".jsonl":
        paths = result_paths(path)
        name = path.resolve().name if path.is_dir() else path.stem
        answers, _ = read_answers(paths.answers, drop_cut_line=False)
        about = read_about(paths.about)
        _check_complete(path, answers, about)
        return Results(path, name, answers, about, public=False)
    return Results(path, path.stem, _read_public(path), {}, public=True)


def read_answers(path: Path, *, drop_cut_line: bool) -> tuple[tuple[Answer, ...], bool]:
    """The answers of a JSONL file in the order of the questions; whether a last line that was cut off was left out.

    Raises DataError with all lines that cannot be used, the cut one too unless `drop_cut_line`.
    """
    lines = _read_bytes(path).split(b"\n")
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
        about = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}; run mars eval infer again into a new folder") from error
    parts = [about.get(key) for key in ("asked", "identity", "dropped")] if isinstance(about, dict) else [None]
    if not all(isinstance(part, dict) for part in parts) or "model" not in about["identity"]:
        raise DataError(f"{path}: does not say what was asked; run mars eval infer again into a new folder")
    return about


def refuse(problems: Sequence[tuple[str, str]], path: Path, total: int, what: str) -> None:
    """Raises DataError with a table of (place, problem); does nothing without problems."""
    if not problems:
        return
    shown = problems[:_PROBLEMS_SHOWN]
    width = max(len(place) for place, _ in shown)
    lines = [f"{path}: {len({place for place, _ in problems})} of {total} {what} cannot be used"]
    lines += [f"  {place:<{width}}  {problem}" for place, problem in shown]
    if len(problems) > len(shown):
        lines.append(f"  and {len(problems) - len(shown)} more problems")
    lines.append("nothing is scored: no answer may leave the denominator in silence; mend the file, or make it again")
    raise DataError("\n".join(lines))


def write_atomically(path: Path, content: str) -> None:
    """The file exists wholly or not at all."""
    draft = path.with_name(f".tmp-{path.name}")
    draft.write_text(content, encoding="utf-8")
    os.replace(draft, path)


def public_entries(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The answers to one view in the public format: a list of {content: [text], ground_truth} in question order.

    Several answers to one question are several texts of its `content`. A truth that lists boxes is a list.
    """
    entries: dict[str, dict[str, Any]] = {}
    for answer in sorted(answers, key=lambda answer: answer.order):
        entry = entries.setdefault(answer.prompt_id, {"content": [], "ground_truth": _public_truth(answer.truth)})
        entry["content"].append(answer.text)
    return list(entries.values())


def _public_truth(truth: str) -> Any:
    try:
        value = json.loads(truth)
    except (ValueError, RecursionError):
        return truth
    if not isinstance(value, list):
        return truth
    return [entry.get("bbox_2d", entry) if isinstance(entry, dict) else entry for entry in value]


def _check_complete(path: Path, answers: Sequence[Answer], about: Mapping[str, Any]) -> None:
    have: dict[str, int] = {}
    for answer in answers:
        have[view_name(answer.view)] = have.get(view_name(answer.view), 0) + 1
    missing = {view: number - have.get(view, 0) for view, number in about["asked"].items()}
    if any(missing.values()):
        table = ", ".join(f"{view} {number}" for view, number in missing.items() if number)
        raise DataError(f"{path}: answers are missing ({table}); run the same mars eval infer again, it goes on there")
    if not answers:
        raise DataError(f"{path}: holds no answers; run mars eval infer")


def _read_public(path: Path) -> tuple[Answer, ...]:
    try:
        entries = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}; want a list of {{content: [text], ground_truth}}") from error
    if not isinstance(entries, list) or not entries:
        got = "an empty list" if entries == [] else type(entries).__name__
        raise DataError(f"{path}: want a list of {{content: [text], ground_truth}}; got {got}")
    answers: list[Answer] = []
    problems: list[tuple[str, str]] = []
    for number, entry in enumerate(entries):
        try:
            answers += _public_answers(path, number, entry)
        except ValueError as error:
            problems.append((f"{path}:{number}", str(error)))
    refuse(problems, path, len(entries), "entries")
    return tuple(answers)


def _public_answers(path: Path, number: int, entry: Any) -> list[Answer]:
    if not isinstance(entry, dict):
        raise ValueError(f"want {{content: [text], ground_truth}}; got {type(entry).__name__}")
    texts, extra = entry.get("content"), entry.get("extra_info") or {}
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"content: want a list of texts; got {str(texts)[:80]!r}")
    truth = entry.get("ground_truth")
    if truth is None or isinstance(truth, bool):
        raise ValueError(f"ground_truth: want a text or a list of boxes; got {truth!r}")
    if not isinstance(extra, dict):
        raise ValueError(f"extra_info: want an object; got {type(extra).__name__}")
    truth = truth if isinstance(truth, str) else json.dumps(truth)
    label = f"{path}:{number}"
    return [
        Answer(str(number), number, label, path.stem, None, sample, text, truth, None, None, extra)
        for sample, text in enumerate(texts)
    ]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give results of mars eval infer") from error
