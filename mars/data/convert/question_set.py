"""Sets whose questions stand in JSON files: what all of them have in common."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mars.data.convert.choices import choices_in_text, letter_of, listed, plain_choices
from mars.data.convert.forms import count_questions, read_question
from mars.data.convert.locate import PathRule, find_rule
from mars.data.convert.markers import place_markers
from mars.data.convert.public_set import Item, PublicSet, ReadItem
from mars.data.convert.records import RecordFile, read_record_files
from mars.data.images import BadImage, probe_size
from mars.data.problems import RowError
from mars.data.rows import confined_path
from mars.data.views import MARKER
from mars.errors import DataError

_LEADING = re.compile(rf"(?:\s*{MARKER})+\s*")

_HELD_OUT = ("test", "val", "valid", "validation", "eval", "evaluation", "dev", "bench", "benchmark")

Names = Callable[[Sequence[str]], tuple[str, ...]]


def numbered(word: str, paths: Sequence[str]) -> tuple[str, ...]:
    """numbered("view", two paths) -> ("view_1", "view_2")."""
    return tuple(f"{word}_{number}" for number in range(1, len(paths) + 1))


@dataclass(frozen=True)
class SetRules:
    """What is particular to a set.

    sources: image paths -> names, in the order the record lists them.
    all_images: (paths below the image root) -> those with what the record leaves out (SpatialBench's depth).
    depth: encoding of the source called "depth" where its file has more than 8 bits.
    truth: the answer as it is scored.
    keep_file_names: a split is called like its file; else train or test, so that run scripts find it.
    tidy: put leading image tags on a line of their own, the task instruction behind them.
    """

    name: str
    converter: str
    licence: str
    sources: Names
    all_images: Callable[[Sequence[str]], Sequence[str]] = tuple
    depth: str | None = None
    truth: Callable[[Any], Any] = lambda answer: answer
    keep_file_names: bool = False
    tidy: bool = True


@dataclass(frozen=True)
class _Content:
    """What an item holds: question `number` of a record, and how the paths of its file are read."""

    record: Any
    number: int
    metadata: Mapping[str, Any]
    rule: PathRule
    set: SetRules


def question_set(
    source: Path, image_root: Path | None, rules: SetRules | Callable[[Path], SetRules]
) -> PublicSet:  # fmt: skip
    """The set in the file or folder `source`. Image paths are looked up below `image_root` (None: beside the files).

    rules: the set's, or those of each file where a folder holds several sets.
    Raises DataError where files cannot be read or the image root is no folder.
    """
    root = image_root or (source if source.is_dir() else source.parent)
    if not root.is_dir():
        raise DataError(f"--image-root: no such folder; got {root}; give the folder that holds the images")
    files = read_record_files(source)
    of_file = {file.name: rules if isinstance(rules, SetRules) else rules(file.path) for file in files}
    names = _split_names(files, of_file)
    sets = {found.name: found for found in of_file.values()}
    first = next(iter(sets.values()))
    return PublicSet(
        name=", ".join(sets),
        converter=first.converter,
        licence="; ".join(dict.fromkeys(found.licence for found in sets.values())),
        image_root=root,
        splits={names[file.name]: _items(file, root, of_file[file.name]) for file in files},
        read=partial(_read, root=root),
    )


def _split_names(files: Sequence[RecordFile], rules: Mapping[str, SetRules]) -> dict[str, str]:
    """File -> split: what DEMON's metadata or the file's name say, test for a benchmark's questions, else train.

    Files that would be one split keep their names.
    """
    names = {file.name: file.name if rules[file.name].keep_file_names else _train_or_test(file) for file in files}
    several = {name for name, count in Counter(names.values()).items() if count > 1}
    return {file: file if name in several else name for file, name in names.items()}


def _train_or_test(file: RecordFile) -> str:
    declared = str(file.metadata.get("split", "")).lower()
    words = [declared, *re.split(r"[^a-z]+", file.name.lower())]
    if any(word in _HELD_OUT for word in words):
        return "test"
    first = file.records[0]
    is_benchmark = isinstance(first, dict) and "question" in first
    return "test" if is_benchmark and "train" not in words else "train"


def _items(file: RecordFile, root: Path, rules: SetRules) -> list[Item]:
    folders = ["images", file.path.stem]
    if file.path.parent != root and file.path.parent.is_relative_to(root):
        below = file.path.parent.relative_to(root)
        folders += [below.as_posix(), (below / "images").as_posix()]
    rule = find_rule(_paths(file), root, folders)
    items = []
    for row, record in enumerate(file.records):
        count = count_questions(record)
        for number in range(count):
            label = f"{file.path.name}:{row}" + (f", question {number + 1}" if count > 1 else "")
            items.append(Item(label, _Content(record, number, file.metadata, rule, rules)))
    return items


def _paths(file: RecordFile) -> Iterator[str]:
    for record in file.records:
        try:
            images = read_question(record, 0, file.metadata).images
        except RowError:
            continue  # reported when its item is read
        yield from (path for path in images if isinstance(path, str))


def _read(item: Item, root: Path) -> ReadItem:
    content: _Content = item.content
    rules = content.set
    _check_unicode(content.record)
    question = read_question(content.record, content.number, content.metadata)
    paths = rules.all_images([_path(image, content.rule) for image in question.images])
    texts, order = place_markers([text for _, text in question.turns], len(paths))
    if rules.tidy:
        texts[0] = _tidied(texts[0], question.instruction)
    choices = plain_choices(question.choices)
    if choices is None:
        choices = choices_in_text(texts[-1])
    elif choices_in_text(texts[-1]) is None and rules.tidy:
        texts[-1] = f"{texts[-1].rstrip()} {listed(choices)}"
    truth = rules.truth(question.answer)
    if choices is not None and isinstance(truth, str):
        truth = letter_of(truth, choices)
    names = question.extra.get("sources") or rules.sources(paths)
    if not isinstance(names, list | tuple) or len(names) != len(paths):
        raise RowError("sources", f"{len(paths)} images, sources named {names!r:.120}")
    encodings = _encodings(question.extra, rules.depth, names, paths, root)
    columns = {
        "data_source": content.record.get("data_source") or rules.name,
        "prompt": [
            {"role": role, "content": text} for (role, _), text in zip(question.turns, texts, strict=True)
        ],
        "images": [paths[place] for place in order],
        "reward_model": {"ground_truth": truth},
        "response": question.response,
        "extra_info": {
            "id": None if question.identity is None else str(question.identity),
            "sources": [names[place] for place in order],
            "encodings": [encodings[place] for place in order],
            "box_space": question.extra.get("box_space"),
            "choices": choices,
        },
    }  # fmt: skip
    counts = {"eight_bit_depth": sum(name == "depth" and e == "rgb" for name, e in zip(names, encodings, strict=True))}
    return ReadItem(columns, {key: count for key, count in counts.items() if count and rules.depth})


def _check_unicode(record: Any) -> None:
    """Half a surrogate pair is no text: it could be neither tokenised nor written."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RowError("json", "the record is not Unicode text: it holds half a surrogate pair") from error


def _path(image: Any, rule: PathRule) -> str:
    if not isinstance(image, str) or not image:
        raise RowError("image_missing", f"an image must be a path; got {image!r:.80}")
    return rule(image)


def _tidied(text: str, instruction: str) -> str:
    """Leading markers on a line of their own, then the instruction unless the text has it already."""
    leading = _LEADING.match(text)
    markers, rest = (MARKER * leading.group().count(MARKER), text[leading.end() :]) if leading else ("", text)
    if instruction and instruction not in rest:
        rest = f"{instruction} {rest.lstrip()}"
    return f"{markers}\n{rest}" if markers else rest


def _encodings(
    extra: Mapping[str, Any], depth: str | None, names: Sequence[str], paths: Sequence[str], root: Path
) -> list[str]:
    """The row's own encodings, else `depth` for a source of that name whose file has more than 8 bits."""
    declared = extra.get("encodings")
    if isinstance(declared, list) and len(declared) == len(paths):
        return [encoding or "rgb" for encoding in declared]
    if isinstance(declared, dict):
        return [declared.get(name) or "rgb" for name in names]
    return [
        depth if depth is not None and name == "depth" and not _is_8_bit(path, depth, root) else "rgb"
        for name, path in zip(names, paths, strict=True)
    ]


def _is_8_bit(path: str, encoding: str, root: Path) -> bool:
    """Whether a depth image is stored as colours or greys already; one that cannot be read is left to the reader."""
    try:
        probe_size(confined_path(path, str(root.resolve())), encoding, path)
    except BadImage as error:
        return error.reason == "bit_depth"
    return False
