"""Read the rows of files and saved data sets as prompts. Columns are those of verl or EasyR1."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from mars.data.pixels.images import BadImage, decode_image, probe_size
from mars.data.rows import columns as rows
from mars.data.rows.choices import clear_letter, options_of, with_plain_choices
from mars.data.rows.files import ReadJson, StoredRow, chunks, fingerprint_of, kind_of, unusable_files
from mars.data.rows.media import refuse_image_tags, refuse_unread_images, refuse_videos
from mars.data.rows.problems import RowError, RowProblem, report
from mars.data.rows.saved import FileError
from mars.data.rows.unnamed_sources import unnamed_sources
from mars.errors import DataError
from mars.output.progress import progress
from mars.types import IMAGE_MARKER, ImageRef, Prompt, Source

logger = logging.getLogger(__name__)

THREADS = 8
TruthCheck = Callable[[Prompt], str | None]
"""Returns why the reward cannot use a prompt's truth, or None. It may raise DataError with the reason instead."""

Probe = Callable[[str | bytes, str, str], tuple[int, int]]
"""(file or bytes, encoding, name) -> size of the image from its header, like mars.data.pixels.images.probe_size."""


@dataclass(frozen=True)
class RowReading:
    """One row after reading.

    label: see `StoredRow`.
    prompt: None if the question or one of its images is bad. If only truth, response or id is bad, there is a prompt,
        so that later checks can run. In such a prompt a bad truth is "" and a bad response None.
    sources: the images whose headers could be read.
    """

    label: str
    prompt: Prompt | None
    sources: tuple[Source, ...]
    problems: tuple[RowProblem, ...]


@dataclass(frozen=True)
class Reading:
    """All rows of some files, in order. fingerprint: hash of the files' contents."""

    rows: tuple[RowReading, ...]
    fingerprint: str

    @property
    def problems(self) -> list[RowProblem]:
        return [problem for row in self.rows for problem in row.problems]

    @property
    def usable(self) -> tuple[Prompt, ...]:
        """The prompts of the rows without problems."""
        return tuple(row.prompt for row in self.rows if row.prompt is not None and not row.problems)


def read_prompts(
    files: Sequence[str],
    image_root: str | None,
    check_truth: TruthCheck,
    probe: Probe = probe_size,
    *,
    read_json: ReadJson,
    needs_response: bool = False,
) -> Reading:
    """All rows of `files` (see docs/data.md for their kinds), in order. Images are only probed, see `probe_size`.

    image_root: the folder that image paths are relative to; None means each file's own folder.
    check_truth: called with every prompt that has a truth; see TruthCheck.
    read_json: the reader of .json files, mars.data.convert.eval_json.read_json_rows.
    needs_response: whether a row without a response is bad.
    Raises DataError for files that cannot be read.
    """
    broken = unusable_files(files, image_root)
    if broken:
        raise DataError("\n".join(broken))
    fingerprint = fingerprint_of(files)
    found: list[RowReading] = []

    def read(row: StoredRow) -> RowReading:
        return read_row(row, fingerprint, image_root, check_truth, probe, needs_response=needs_response)

    with ThreadPoolExecutor(THREADS) as pool:
        for index, file in enumerate(files):
            before = len(found)
            try:
                for chunk in chunks(file, index, image_root, read_json):
                    found.extend(pool.map(read, chunk))
            except FileError as error:
                broken.append(f"{file}: cannot be read as {kind_of(file)}: {error}")
            else:
                if len(found) == before:
                    broken.append(f"{file}: has no rows")
                for text in unnamed_sources(file, [row.prompt for row in found[before:] if row.prompt is not None]):
                    logger.warning("%s", text)
    reading = Reading(_with_duplicate_ids(found), fingerprint)
    if broken:
        problems = reading.problems
        raise DataError("\n".join([*broken, *([report(problems, len(found))] if problems else [])]))
    return reading


def undecodable(readings: Sequence[RowReading]) -> list[RowProblem]:
    """Decode all images with good headers in full, with a progress bar; returns those that fail."""

    def problems_of(row: RowReading) -> list[RowProblem]:
        found = []
        for source in row.sources:
            try:
                decode_image(source.image)
            except BadImage as error:
                found.append(RowProblem(row.label, f"image_{error.reason}", f"source {source.name}: {error}"))
        return found

    # Decoding is bound by the CPU, and each thread holds a decoded image in memory.
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        decoded = progress(pool.map(problems_of, readings), "Decoding images", len(readings))
        return [problem for found in decoded for problem in found]


class _Attempts:
    """Calls functions that read parts of a row, and collects the problems they raise."""

    def __init__(self, label: str) -> None:
        self._label = label
        self.problems: list[RowProblem] = []

    def __call__(self, step: Callable[..., Any], *args: Any) -> Any:
        """The result of `step`, or None if `step` raises RowError."""
        try:
            return step(*args)
        except RowError as error:
            self.problems.append(RowProblem(self._label, error.reason, str(error)))
            return None


def read_row(
    stored: StoredRow,
    fingerprint: str,
    image_root: str | None,
    check_truth: TruthCheck,
    probe: Probe,
    *,
    needs_response: bool = False,
) -> RowReading:
    """Read one row. Arguments as for `read_prompts`."""
    columns, label = stored.columns, stored.label
    if stored.problem is not None:
        return RowReading(label, None, (), (RowProblem(label, stored.problem.reason, str(stored.problem)),))
    if columns is None:
        problem = RowProblem(label, "json", "the line is not a JSON object of Unicode text")
        return RowReading(label, None, (), (problem,))
    question, answer = _Attempts(label), _Attempts(label)
    question(refuse_videos, columns)
    data_source = question(rows.data_source_of, columns, stored.set_name)
    messages, inline = question(rows.messages_of, columns) or (None, [])
    extra = question(rows.extra_info_of, columns)
    if extra is not None:
        extra = with_plain_choices(extra)
        question(rows.check_box_space, extra)
        question(rows.check_choices, extra)
    truth = answer(rows.truth_of, columns)
    response = answer(rows.response_of, columns, needs_response)
    cells = question(rows.image_cells, columns, inline)
    if messages is not None and cells is not None:
        question(_check_markers, messages, len(cells))
    if messages is not None and cells == []:
        question(refuse_unread_images, columns)
        question(refuse_image_tags, "\n".join(message.text for message in messages))
    sources = () if cells is None else _read_sources(stored, image_root, cells, extra or {}, question, probe)
    if extra is None:  # 16-bit images need an encoding from extra_info, which is unreadable and reported already
        question.problems = [problem for problem in question.problems if problem.reason != "image_bit_depth"]
    if question.problems:
        return RowReading(label, None, sources, (*question.problems, *answer.problems))
    assert messages is not None  # otherwise `question` has a problem
    assert extra is not None  # otherwise `question` has a problem
    if extra.get("choices") is None and truth is not None and (options := options_of(messages[-1].text, truth)):
        extra["choices"] = options
        truth = clear_letter(truth, options)
    prompt = Prompt(
        prompt_id=_prompt_id(fingerprint, stored.file_index, stored.number),
        row=label,
        data_source=data_source,
        messages=messages,
        sources=sources,
        truth=truth or "",
        extra_info=extra,
        response=response,
        mono_responses=answer(rows.mono_responses_of, columns, [source.name for source in sources]) or {},
    )
    if truth is not None:
        answer(_check_truth, check_truth, prompt)
    return RowReading(label, prompt, sources, tuple(answer.problems))


def _read_sources(
    stored: StoredRow, image_root: str | None, cells: Sequence[Any], extra: rows.Row, attempt: _Attempts, probe: Probe
) -> tuple[Source, ...]:
    """The row's sources, without those whose image is missing or has a bad header."""
    names = attempt(rows.source_names, extra, len(cells))
    encodings = None if names is None else attempt(rows.encodings_of, extra, names)
    if names is None or encodings is None:
        return ()
    root = os.path.realpath(stored.folder if image_root is None else image_root)
    sources = []
    for slot, (name, encoding, cell) in enumerate(zip(names, encodings, cells, strict=True)):
        image = attempt(_image, stored, root, slot, cell, name, encoding, probe)
        if image is not None:
            attempt(rows.check_declared_size, extra, slot, len(cells), image.size)
            sources.append(Source(name, image))
    return tuple(sources)


def _check_truth(check: TruthCheck, prompt: Prompt) -> None:
    try:
        reason = check(prompt)
    except DataError as error:
        reason = str(error)
    if reason is not None:
        raise RowError("truth", reason)


def _prompt_id(fingerprint: str, file_index: int, number: int) -> str:
    return hashlib.sha256(f"{fingerprint}:{file_index}:{number}".encode()).hexdigest()[:16]


def _check_markers(messages: Sequence[Any], num_images: int) -> None:
    markers = sum(message.text.count(IMAGE_MARKER) for message in messages)
    if markers != num_images:
        raise RowError("sources", f"{markers} {IMAGE_MARKER} markers in the prompt for {num_images} images")


def _image(stored: StoredRow, root: str, slot: int, cell: Any, name: str, encoding: str, probe: Probe) -> ImageRef:
    """Read the header of one stored image and return a reference to it."""
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
    try:
        if isinstance(data, bytes):
            file, row = stored.place
            size = probe(data, encoding, f"{stored.label}, image {slot}")
            return ImageRef(file, size, encoding, row=row, slot=slot)
        if isinstance(cell, dict) and isinstance(data, str) and data:
            raise RowError(
                "image_path", f"bytes must be bytes and no text, such as base64; got {data:.30}…; store them"
            )
        file = rows.confined_path(path, root)
        return ImageRef(file, probe(file, encoding, file), encoding)
    except BadImage as error:
        raise RowError(f"image_{error.reason}", f"source {name}: {error}") from error
    except RowError as error:
        raise RowError(error.reason, f"source {name}: {error}") from error


def declared_id(prompt: Prompt) -> tuple[str, str, str] | None:
    """(data_source, split, id) of a row; no two rows may agree in all three. None for a row without `extra_info.id`."""
    declared = prompt.extra_info.get("id")
    return None if declared is None else (prompt.data_source, str(prompt.extra_info.get("split")), str(declared))


def _with_duplicate_ids(found: Sequence[RowReading]) -> tuple[RowReading, ...]:
    """Add a problem to each row that repeats the extra_info.id of an earlier good row of its data_source and split."""
    first: dict[tuple[str, str, str], str] = {}
    checked = []
    for row in found:
        key = None if row.prompt is None else declared_id(row.prompt)
        if row.prompt is not None and key is not None:
            if key in first:
                declared = row.prompt.extra_info["id"]
                problem = RowProblem(row.label, "duplicate_id", f"id {declared!r} is already used by {first[key]}")
                row = replace(row, problems=(*row.problems, problem))
            elif not row.problems:
                first[key] = row.label
        checked.append(row)
    return tuple(checked)
