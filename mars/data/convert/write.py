"""Write a public set as parquet, with its metadata. Every row must pass the reader's own checks first."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mars.data.convert.output import (
    METADATA_FILE,
    RowFile,
    check_unicode,
    read_metadata,
    row_file,
    with_earlier_splits,
    write_metadata,
)
from mars.data.convert.public_set import Item, PublicSet, ReadItem
from mars.data.pixels.images import probe_size
from mars.data.rows.dataset import THREADS, TruthCheck, read_row
from mars.data.rows.files import StoredRow
from mars.data.rows.problems import OnBadSample, RowError, RowProblem, report
from mars.errors import DataError, SetupError
from mars.output.problems import SHOWN_PROBLEMS
from mars.output.progress import progress
from mars.types import Prompt

logger = logging.getLogger(__name__)

ITEMS_PER_WRITE = 256


@dataclass(frozen=True)
class WriteOptions:
    """limit: rows of each split, None for all. dry_run: read and count, write nothing.

    on_bad_sample: "drop" leaves bad items out and lists them in the metadata; "error" refuses the set, in one message
        with all bad items.
    check_truth: says why a truth cannot be scored; see mars.data.rows.dataset.TruthCheck.
    drop_by: the option that sets `on_bad_sample` to "drop", for messages.
    """

    limit: int | None
    dry_run: bool
    on_bad_sample: OnBadSample
    check_truth: TruthCheck
    drop_by: str


@dataclass
class _Split:
    """What has been written of a split so far."""

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[RowProblem] = field(default_factory=list)  # one for each item that was left out


def write_set(public: PublicSet, out: Path, options: WriteOptions) -> dict[str, Any]:
    """Write {split}.parquet for every split, and dataset.json, into the folder `out`.

    Image paths are relative to `out` if the image root is inside it (then data.image_root is not needed), else to the
    image root. Items keep their order; the same set gives the same bytes. Returns the content of dataset.json,
    without splits of earlier conversions, and "problems": (label, reason, detail) of each bad item.
    Raises DataError if a split has no usable item, or if it has a bad item and `on_bad_sample` is "error". Raises
    SetupError if `out` cannot be written.
    """
    check_unicode({"--name": public.name, "--licence": public.licence, "OUT": str(out)})
    check_unicode({f"split {name!r}": name for name in public.splits})
    try:
        return _write_set(public, out, options)
    except OSError as error:
        raise SetupError(f"{out}: cannot be written: {error}; give a folder with room, and run this again") from error


def _write_set(public: PublicSet, out: Path, options: WriteOptions) -> dict[str, Any]:
    root, target = Path(os.path.realpath(public.image_root)), Path(os.path.realpath(out))
    base = target if root.is_relative_to(target) else root
    metadata, earlier = _empty_metadata(public, base == target), read_metadata(target / METADATA_FILE)
    if not options.dry_run:
        target.mkdir(parents=True, exist_ok=True)
    converter = _Converter(public, root, base, options)
    problems = _convert_splits(converter, public, metadata["splits"], None if options.dry_run else target)
    metadata["sources"] = list(converter.sources)
    if not options.dry_run:
        write_metadata(with_earlier_splits(metadata, earlier, target), target / METADATA_FILE)
    return {**metadata, "problems": problems}


def _convert_splits(
    converter: _Converter, public: PublicSet, splits: dict[str, Any], target: Path | None
) -> list[tuple[str, str, str]]:
    """Write all splits and fill `splits` (name -> metadata). Writes no file if it raises.

    Returns (label, reason, detail) of bad items.
    """
    problems: list[RowProblem] = []
    with ExitStack() as stack:
        files = {
            name: None
            if target is None
            else stack.enter_context(
                row_file(
                    target / f"{name}.parquet",
                    with_mono_responses=public.with_mono_responses,
                    with_origin=public.with_origin,
                )
            )
            for name in public.splits
        }
        for name, file in files.items():
            split = converter.convert(name, file)
            splits[name] = _split_metadata(split)
            problems += split.problems
        _refuse(public, splits, problems, converter.options)
    return [(problem.row, problem.reason, problem.detail) for problem in problems]


class _Converter:
    def __init__(self, public: PublicSet, root: Path, base: Path, options: WriteOptions) -> None:
        self._public, self._root, self._base = public, root, base
        self.options = options
        self.sources: dict[str, None] = {}  # in the order they were seen first
        self._ids: set[str] = set()  # ids of the split's rows so far
        self._seen: set[tuple[str | None, bytes]] = set()  # (declared id, hash of the content) of each row so far

    def convert(self, name: str, file: RowFile | None) -> _Split:
        split, items = _Split(), self._public.splits[name]
        self._ids, self._seen = set(), set()
        limit = len(items) if self.options.limit is None else self.options.limit
        verb = "Checking" if file is None else "Converting"
        with ThreadPoolExecutor(THREADS) as pool:
            shown = iter(progress(items, f"{verb} {name}", len(items)))
            position = -1  # the item's position in its split
            while split.rows < limit and (chunk := list(islice(shown, ITEMS_PER_WRITE))):
                rows: list[dict[str, Any]] = []
                for item, result in zip(chunk, pool.map(self._read, chunk), strict=True):
                    if split.rows == limit:
                        break
                    position += 1
                    if isinstance(result, RowProblem):
                        split.problems.append(result)
                        logger.info("%s: %s", item.label, result.detail)
                        continue
                    row = self._row(result[0], result[1], name, split, position)
                    if row is None:
                        split.problems.append(RowProblem(item.label, "duplicate", "an earlier item is the same"))
                        continue
                    rows.append(row)
                if file is not None:
                    file.append(rows)
        return split

    def _read(self, item: Item) -> tuple[Prompt, ReadItem] | RowProblem:
        """The prompt that `read_row` makes of the item's row, and the item as read; or why the item cannot be used."""
        try:
            read = self._public.read(item)
        except RowError as error:
            return RowProblem(item.label, error.reason, str(error))
        stored = StoredRow(file=str(self._root / item.label), file_index=0, number=0, columns=read.columns)
        result = read_row(stored, "", str(self._root), self.options.check_truth, probe_size)
        prompt = result.prompt
        if prompt is None or result.problems:
            for file in read.files:
                file.unlink()
            details = "; ".join(problem.detail for problem in result.problems)
            return RowProblem(item.label, result.problems[0].reason, details)
        return prompt, read

    def _row(
        self, prompt: Prompt, read: ReadItem, split_name: str, split: _Split, position: int
    ) -> dict[str, Any] | None:
        """The row to write, or None if it was written already."""
        names = [source.name for source in prompt.sources]
        encodings = [source.image.encoding for source in prompt.sources]
        paths = [os.path.relpath(source.image.path, self._base) for source in prompt.sources]
        row = {
            "data_source": prompt.data_source,
            "prompt": [{"role": message.role, "content": message.text} for message in prompt.messages],
            "images": [{"bytes": None, "path": Path(path).as_posix()} for path in paths],
            "reward_model": {"style": "rule", "ground_truth": prompt.truth},
            "response": prompt.response,
        }
        if prompt.mono_responses:
            row["mono_responses"] = json.dumps(prompt.mono_responses, ensure_ascii=False)
        identity = self._identity(prompt.extra_info.get("id"), f"{split_name}-{position}", row)
        if identity is None:
            return None
        row["extra_info"] = {
            "id": identity,
            "index": split.rows,
            "split": str(prompt.extra_info.get("split") or split_name),
            "sources": names,
            "image_sizes": [list(source.image.size) for source in prompt.sources],
            "box_space": prompt.extra_info.get("box_space") or "original_pixels",
            "choices": prompt.extra_info.get("choices"),
            "encodings": encodings if any(encoding != "rgb" for encoding in encodings) else None,
        }
        if self._public.with_origin:
            row["extra_info"]["origin"] = prompt.extra_info.get("origin")
            row["extra_info"]["more_fields"] = read.columns["extra_info"]["more_fields"]
        for name in names:
            self.sources.setdefault(name)
        split.rows += 1
        split.counts.update(read.counts)
        return row

    def _identity(self, declared: str | None, default: str, row: dict[str, Any]) -> str | None:
        """The declared or default id, with ".2" and so on if another row has it; None for a duplicate to leave out."""
        key = (declared, hashlib.sha256(json.dumps(row, sort_keys=True).encode()).digest())
        if key in self._seen and not self._public.keep_repeated:
            return None
        self._seen.add(key)
        identity, number = declared or default, 1
        while identity in self._ids:
            number += 1
            identity = f"{declared or default}.{number}"
        self._ids.add(identity)
        return identity


def _empty_metadata(public: PublicSet, paths_in_folder: bool) -> dict[str, Any]:
    return {
        "data_source": public.name,
        "converter": public.converter,
        "licence": public.licence,
        "sources": [],
        "image_paths_relative_to": "this folder" if paths_in_folder else "the image root; set data.image_root to it",
        "splits": {},
        "left_out": dict(public.left_out),
    }


def _refuse(
    public: PublicSet, splits: Mapping[str, Any], problems: Sequence[RowProblem], options: WriteOptions
) -> None:
    empty = [name for name, split in splits.items() if not split["rows"]]
    if not empty and not (problems and options.on_bad_sample == "error"):
        return
    lines = [f"{public.name}: no usable item in split {name!r}" for name in empty]
    if problems:
        num_items = sum(split["rows"] for split in splits.values()) + len(problems)
        shown = None if options.on_bad_sample == "error" else SHOWN_PROBLEMS
        drop = f"fix them, or leave them out with {options.drop_by}"
        remedy = drop if options.on_bad_sample == "error" else "fix them: a split needs at least one usable item"
        lines.append(report(problems, num_items, remedy, shown))
    raise DataError("\n".join(lines))


def _split_metadata(split: _Split) -> dict[str, Any]:
    reasons = sorted({problem.reason for problem in split.problems})
    ids = {reason: [problem.row for problem in split.problems if problem.reason == reason] for reason in reasons}
    return {
        "rows": split.rows,
        **dict(sorted(split.counts.items())),
        "dropped": {reason: len(names) for reason, names in ids.items()},
        "dropped_ids": ids,
    }


def summary_lines(metadata: Mapping[str, Any]) -> Iterator[str]:
    """What `write_set` returned, for a terminal: rows of each split, then what was left out, by reason."""
    for name, split in metadata["splits"].items():
        counts = [f"{value} {key}" for key, value in split.items() if isinstance(value, int) and key != "rows"]
        yield f"{name:<12} {split['rows']} rows{''.join(', ' + count for count in counts)}"
    for what, count in metadata["left_out"].items():
        yield f"left out     {count} {what}"
    reasons = Counter(reason for _, reason, _ in metadata["problems"])
    if not reasons:
        yield "dropped      none"
        return
    width = max(len(reason) for reason in reasons)
    yield f"dropped      {reasons.total()}"
    yield f"  {'reason':<{width}}  {'count':>6}  first"
    for reason, count in sorted(reasons.items()):
        label, detail = next((label, detail) for label, why, detail in metadata["problems"] if why == reason)
        yield f"  {reason:<{width}}  {count:>6}  {label}: {detail}"
