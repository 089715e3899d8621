"""Rows on disk to prompts: parquet and JSONL, verl's and EasyR1's columns, any number of sources per row."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.data.pixels.images import BadImage, decode_image, probe_size
from mars.data.rows import columns as rows
from mars.data.rows.choices import options_of
from mars.data.rows.files import FileError, StoredRow, chunks, fingerprint_of, unusable_files
from mars.data.rows.problems import OnBadSample, Problem, RowError, report, rows_by_reason
from mars.errors import DataError
from mars.output.progress import progress
from mars.types import IMAGE_MARKER, ImageRef, Prompt, Source

logger = logging.getLogger(__name__)

THREADS = 8
TruthCheck = Callable[[Prompt], str | None]
"""Why a prompt's truth cannot be scored, or None. It may raise DataError instead."""

Probe = Callable[[str | bytes, str, str], tuple[int, int]]


@dataclass(frozen=True)
class PromptSet:
    """The usable rows of one or several files.

    dropped: rows left out, by reason. fingerprint: hash of the files' contents in order, wherever they lie.
    """

    prompts: tuple[Prompt, ...]
    dropped: Mapping[str, int]
    fingerprint: str

    def without(self, problems: Sequence[Problem], on_bad_sample: OnBadSample) -> PromptSet:
        """This set without the rows of `problems`, counted as dropped.

        Raises DataError with all problems under "error", and under "drop" if no row is left.
        """
        if not problems:
            return self
        bad = {problem.row for problem in problems}
        kept = tuple(prompt for prompt in self.prompts if prompt.row not in bad)
        num_rows = len(kept) + len(bad) + sum(self.dropped.values())
        if on_bad_sample == "error":
            raise DataError(report(problems, num_rows))
        if not kept:
            raise DataError(f"data.on_bad_sample: no row is left after dropping\n{report(problems, num_rows)}")
        dropped = dict(self.dropped)
        for reason, count in rows_by_reason(problems).items():
            dropped[reason] = dropped.get(reason, 0) + count
        logger.warning("data: %d of %d rows dropped: %s", sum(dropped.values()), num_rows, dropped)
        return PromptSet(kept, dropped, self.fingerprint)


@dataclass(frozen=True)
class Reading:
    """What files hold. A row in `problems` may be in `prompts` too: its id is an earlier row's."""

    prompts: tuple[Prompt, ...]
    problems: tuple[Problem, ...]
    num_rows: int
    fingerprint: str


def load_prompts(
    files: Sequence[str], image_root: str | None, on_bad_sample: OnBadSample, check_truth: TruthCheck
) -> PromptSet:
    """All prompts of `files`, as `read_prompts` reads them.

    Bad rows: all of them in one DataError ("error"), or left out and counted ("drop"). A file that cannot be read,
    or a set without a usable row, is a DataError always.
    """
    reading = read_prompts(files, image_root, check_truth, probe_size)
    return PromptSet(reading.prompts, {}, reading.fingerprint).without(reading.problems, on_bad_sample)


def read_prompts(files: Sequence[str], image_root: str | None, check_truth: TruthCheck, probe: Probe) -> Reading:
    """All rows of `files` (.parquet, .jsonl), in order. Image headers are read, pixels are not decoded.

    image_root: folder of the images' relative paths; None means each file's own folder.
    check_truth: called with every prompt that is complete otherwise; see TruthCheck.
    probe: reads the size of an image from its header, as mars.data.pixels.images.probe_size does.
    Raises DataError for files that cannot be read.
    """
    broken = unusable_files(files, image_root)
    if broken:
        raise DataError("\n".join(broken))
    fingerprint = fingerprint_of(files)
    results: list[Prompt | list[Problem]] = []

    def read(row: StoredRow) -> Prompt | list[Problem]:
        return read_row(row, fingerprint, image_root, check_truth, probe)

    with ThreadPoolExecutor(THREADS) as pool:
        for index, file in enumerate(files):
            before = len(results)
            try:
                for chunk in chunks(file, index, image_root):
                    results.extend(pool.map(read, chunk))
            except FileError as error:
                broken.append(f"{file}: cannot be read as {Path(file).suffix[1:]}: {error}")
            else:
                if len(results) == before:
                    broken.append(f"{file}: has no rows")
    prompts = tuple(result for result in results if isinstance(result, Prompt))
    problems = [problem for result in results if isinstance(result, list) for problem in result]
    problems += _duplicate_ids(prompts)
    if broken:
        raise DataError("\n".join([*broken, *([report(problems, len(results))] if problems else [])]))
    return Reading(prompts, tuple(problems), len(results), fingerprint)


def check_num_images(prompt_set: PromptSet, images_per_row: int, on_bad_sample: OnBadSample) -> PromptSet:
    """Rows with another number of images are bad ones, treated as in load_prompts."""
    problems = [
        Problem(prompt.row, "num_images", f"{len(prompt.sources)} images, data.images_per_row={images_per_row}")
        for prompt in prompt_set.prompts
        if len(prompt.sources) != images_per_row
    ]
    return prompt_set.without(problems, on_bad_sample)


def check_images(prompt_set: PromptSet, on_bad_sample: OnBadSample) -> PromptSet:
    """Decode every image in full, with a progress bar. Bad ones as in load_prompts."""
    return prompt_set.without(undecodable(prompt_set.prompts), on_bad_sample)


def undecodable(prompts: Sequence[Prompt]) -> list[Problem]:
    """The images that cannot be decoded in full, found with a progress bar."""

    def problems_of(prompt: Prompt) -> list[Problem]:
        found = []
        for source in prompt.sources:
            try:
                decode_image(source.image)
            except BadImage as error:
                found.append(Problem(prompt.row, f"image_{error.reason}", f"source {source.name}: {error}"))
        return found

    # Decoding is work for the cores, and each thread holds an image.
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        decoded = progress(pool.map(problems_of, prompts), "Decoding images", len(prompts))
        return [problem for found in decoded for problem in found]


def read_row(
    stored: StoredRow, fingerprint: str, image_root: str | None, check_truth: TruthCheck, probe: Probe
) -> Prompt | list[Problem]:
    """The row's prompt, or everything that is wrong with it."""
    problems: list[Problem] = []

    def attempt(step: Callable[..., Any], *args: Any) -> Any:
        try:
            return step(*args)
        except RowError as error:
            problems.append(Problem(stored.label, error.reason, str(error)))
            return None

    columns = stored.columns
    if stored.problem is not None:
        return [Problem(stored.label, stored.problem.reason, str(stored.problem))]
    if columns is None:
        return [Problem(stored.label, "json", "the line is not a JSON object of Unicode text")]
    data_source = attempt(rows.data_source_of, columns, Path(stored.file).stem)
    messages, inline = attempt(rows.messages_of, columns) or (None, [])
    extra = attempt(rows.extra_info_of, columns) or {}
    truth = attempt(rows.truth_of, columns)
    response = attempt(rows.response_of, columns)
    cells = attempt(rows.image_cells, columns, inline)
    names = attempt(rows.source_names, extra, len(cells)) if cells is not None else None
    encodings = attempt(rows.encodings_of, extra, names) if names is not None else None
    if messages is not None and cells is not None:
        attempt(_check_markers, messages, len(cells))
    sources = []
    if cells is not None and encodings is not None:
        root = os.path.realpath(os.path.dirname(stored.file) if image_root is None else image_root)
        for slot, (name, encoding, cell) in enumerate(zip(names, encodings, cells, strict=True)):
            image = attempt(_image, stored, root, slot, cell, name, encoding, probe)
            if image is not None:
                attempt(rows.check_declared_size, extra, slot, len(cells), image.size)
                sources.append(Source(name, image))
    if problems:
        return problems
    if extra.get("choices") is None and (options := options_of(messages[-1].text, truth)):
        extra["choices"] = options
    prompt = Prompt(
        prompt_id=_prompt_id(fingerprint, stored.file_index, stored.number),
        row=stored.label,
        data_source=data_source,
        messages=messages,
        sources=tuple(sources),
        truth=truth,
        extra_info=extra,
        response=response,
    )
    try:
        reason = check_truth(prompt)
    except DataError as error:
        reason = str(error)
    return prompt if reason is None else [Problem(stored.label, "truth", reason)]


def _prompt_id(fingerprint: str, file_index: int, number: int) -> str:
    return hashlib.sha256(f"{fingerprint}:{file_index}:{number}".encode()).hexdigest()[:16]


def _check_markers(messages: Sequence[Any], num_images: int) -> None:
    markers = sum(message.text.count(IMAGE_MARKER) for message in messages)
    if markers != num_images:
        raise RowError("sources", f"{markers} {IMAGE_MARKER} markers in the prompt for {num_images} images")


def _image(stored: StoredRow, root: str, slot: int, cell: Any, name: str, encoding: str, probe: Probe) -> ImageRef:
    """A reference to one stored image, its header read."""
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
    try:
        if isinstance(data, bytes):
            file = os.path.realpath(stored.file)
            size = probe(data, encoding, f"{stored.label}, image {slot}")
            return ImageRef(file, size, encoding, row=stored.number, slot=slot)
        file = rows.confined_path(path, root)
        return ImageRef(file, probe(file, encoding, file), encoding)
    except BadImage as error:
        raise RowError(f"image_{error.reason}", f"source {name}: {error}") from error
    except RowError as error:
        raise RowError(error.reason, f"source {name}: {error}") from error


def _duplicate_ids(prompts: Sequence[Prompt]) -> list[Problem]:
    """Rows whose extra_info.id an earlier row of the same data_source and split has."""
    first: dict[tuple[str, str, str], str] = {}
    problems = []
    for prompt in prompts:
        declared = prompt.extra_info.get("id")
        if declared is None:
            continue
        key = (prompt.data_source, str(prompt.extra_info.get("split")), str(declared))
        if key in first:
            problems.append(Problem(prompt.row, "duplicate_id", f"id {declared!r} is that of {first[key]} already"))
        first.setdefault(key, prompt.row)
    return problems
