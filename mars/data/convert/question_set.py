"""Convert sets whose questions are in JSON files: the code that all of them share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from mars.data.convert.forms import Question, count_questions, read_question
from mars.data.convert.locate import SAMPLED, PathRule, find_rule
from mars.data.convert.markers import count_tags, place_markers
from mars.data.convert.public_set import Item, PublicSet, ReadItem
from mars.data.convert.records import RecordFile, read_record_files
from mars.data.convert.splits import belongs, split_names, split_of
from mars.data.pixels.images import BadImage, probe_size
from mars.data.rows.choices import choices_in_text, clear_letter, is_letter, letter_of, listed, merged, plain_choices
from mars.data.rows.columns import WRAPPED_TRUTH, confined_path, encodings_of, source_names
from mars.data.rows.problems import RowError
from mars.errors import DataError
from mars.types import IMAGE_MARKER

_LEADING = re.compile(rf"(?:\s*{IMAGE_MARKER})+\s*")

Names = Callable[[Sequence[str]], tuple[str, ...]]


def numbered(word: str, paths: Sequence[str]) -> tuple[str, ...]:
    """One name per path: `word` and a number. Example: "view" and two paths -> ("view_1", "view_2")."""
    return tuple(f"{word}_{number}" for number in range(1, len(paths) + 1))


@dataclass(frozen=True)
class SetRules:
    """The rules of one set.

    sources: image paths, in the order of the record -> source names.
    all_images: adds image paths that the record does not list (SpatialBench's depth) to those that it lists. Called
        only if the numbers of image tags and of images differ.
    depth: encoding of the source "depth" if its file has more than 8 bits per channel.
    truth: answer -> ground truth, for questions without choices.
    keep_file_names: whether every split has its file's name. If not, a split is train or test, as the run scripts
        expect, unless several files would share it (`split_names`).
    responses: whether the assistant's turn of a conversation is also the row's response, for the cold start.
    tidy: whether to put leading image tags on a line of their own, followed by the task instruction, and to list the
        choices.
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
    responses: bool = False


@dataclass(frozen=True)
class _Content:
    """The content of an item: question `number` of a record, and the rule for the paths of its file."""

    record: Any
    number: int
    metadata: Mapping[str, Any]
    rule: PathRule
    set: SetRules


def question_set(
    source: Path, image_root: Path | None, rules: SetRules | Callable[[Path], SetRules]
) -> PublicSet:  # fmt: skip
    """The set in the file or folder `source`. Image paths are looked up below `image_root` (None: beside the files).

    rules: the rules of the set. For a folder with files of several sets: a function from a file to its rules.
    Raises DataError if files cannot be read or the image root is not a folder.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; give the set's JSON file, or the folder that holds it")
    root = image_root or (source if source.is_dir() else source.parent)
    if not root.is_dir():
        raise DataError(f"--image-root: no such folder; got {root}; give the folder that holds the images")
    files = read_record_files(source)
    of_file = {file.name: rules if isinstance(rules, SetRules) else rules(file.path) for file in files}
    keep_names = {name for name, found in of_file.items() if found.keep_file_names}
    names = split_names(files, keep_names)
    sets = {found.name: found for found in of_file.values()}
    first = next(iter(sets.values()))
    splits: dict[str, list[Item]] = {}
    others = 0
    for file in files:
        keep = file.name in keep_names
        is_own = (lambda record: True) if keep else belongs(file, of_file[file.name].name)
        for record, items in _items(file, root, of_file[file.name]):
            if is_own(record):
                split = names[file.name] if keep else split_of(record, file, names[file.name])
                splits.setdefault(split, []).extend(items)
            else:
                others += 1
    return PublicSet(
        name=", ".join(sets),
        converter=first.converter,
        licence="; ".join(dict.fromkeys(found.licence for found in sets.values())),
        image_root=root,
        splits=splits,
        read=partial(_read, root=root),
        left_out={"records_of_other_sets": others} if others else {},
        with_mono_responses=any(_has_mono_responses(item) for items in splits.values() for item in items),
    )


def _items(file: RecordFile, root: Path, rules: SetRules) -> Iterator[tuple[Any, list[Item]]]:
    """Each record with its items."""
    folders = ["images", file.path.stem]
    if file.path.parent != root and file.path.parent.is_relative_to(root):
        below = file.path.parent.relative_to(root)
        folders += [below.as_posix(), (below / "images").as_posix()]
    rule = find_rule(_paths(file), root, folders)
    for row, record in zip(file.numbers, file.records, strict=True):
        count = count_questions(record)
        items = []
        for number in range(count):
            label = f"{file.path.name}:{row}" + (f", question {number + 1}" if count > 1 else "")
            items.append(Item(label, _Content(record, number, file.metadata, rule, rules)))
        yield record, items


def _paths(file: RecordFile) -> Iterator[str]:
    """The image paths of a sample of records that are evenly spread over the file."""
    for record in file.records[:: max(len(file.records) // SAMPLED, 1)]:
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
    paths: Sequence[str] = [_path(image, content.rule) for image in question.images]
    texts = [text for _, text in question.turns]
    if count_tags(texts) != len(paths):
        paths = rules.all_images(paths)
    first = [role for role, _ in question.turns].index("user")
    texts, order = place_markers(texts, len(paths), first)
    if rules.tidy:
        texts[first] = _tidied(texts[first], question.instruction or "")
    truth, choices, texts[-1] = _truth_and_choices(question, texts[-1], rules)
    given = question.extra.get("sources")
    names = source_names({"sources": list(rules.sources(paths)) if given is None else given}, len(paths))
    encodings = _encodings(question.extra, rules.depth, names, paths, root)
    columns = {
        "data_source": content.record.get("data_source") or rules.name,
        "prompt": [
            {"role": role, "content": text} for (role, _), text in zip(question.turns, texts, strict=True)
        ],
        "images": [paths[place] for place in order],
        "reward_model": {"ground_truth": truth},
        "mono_responses": _mono_responses(content),
        "response": question.said if rules.responses and question.response is None else question.response,
        "extra_info": {
            "id": None if question.identity is None else str(question.identity),
            "sources": [names[place] for place in order],
            "encodings": [encodings[place] for place in order],
            "image_sizes": _in_order(question.extra.get("image_sizes"), order),
            "box_space": question.extra.get("box_space"),
            "split": question.extra.get("split"),
            "choices": choices,
        },
    }  # fmt: skip
    packed = sum(name == "depth" and e == "rgb" for name, e in zip(names, encodings, strict=True)) if rules.depth else 0
    counts = {"eight_bit_depth": packed, "without_task_instruction": int(question.instruction is None)}
    return ReadItem(columns, {key: count for key, count in counts.items() if count})


def _truth_and_choices(question: Question, text: str, rules: SetRules) -> tuple[Any, list[str] | None, str]:
    """The truth, the choices (or None) and the question's text.

    If there are choices and the truth is a string, `letter_of` replaces it by the letter of a choice where possible.
    With `rules.tidy` the text then lists the choices with letters.
    """
    truth = _bare(question.answer)
    shown = choices_in_text(text, truth)
    choices = plain_choices(question.choices)
    truth = truth if choices or shown else rules.truth(truth)
    if choices is not None and shown is not None:
        choices = merged(choices, shown.options) if shown.lettered else choices
    elif shown is not None and (shown.lettered or rules.tidy or is_letter(truth)):
        choices = shown.options
    if choices is None or not isinstance(truth, str):
        return truth, choices, text
    if rules.tidy and shown is None:
        text = f"{text.rstrip()} Choice list : {listed(choices)}."
    elif rules.tidy and shown is not None and not shown.lettered:
        text = text[: shown.span[0]] + listed(choices) + text[shown.span[1] :]
    if shown is not None and shown.lettered and is_letter(truth):
        truth = clear_letter(truth, choices)
    return letter_of(truth, choices), choices, text


def _bare(answer: Any) -> Any:
    """The answer without <answer> tags; a finite number as text; alternatives in a list joined by " or "."""
    if isinstance(answer, list) and answer and all(isinstance(one, str) for one in answer):
        return " or ".join(one.strip() for one in answer)
    if isinstance(answer, int | float) and not isinstance(answer, bool) and isfinite(answer):
        return str(answer)
    wrapped = WRAPPED_TRUTH.fullmatch(answer) if isinstance(answer, str) else None
    return wrapped[1].strip() if wrapped else answer


def _has_mono_responses(item: Item) -> bool:
    record = item.content.record
    return isinstance(record, Mapping) and bool(record.get("mono_responses"))


def _mono_responses(content: _Content) -> Any:
    """The record's column mono_responses, unchanged.

    Raises RowError if the record has this column and several answers.
    """
    given = content.record.get("mono_responses")
    if given and count_questions(content.record) > 1:
        raise RowError("response", "mono_responses belong to one answer, but the conversation has several; divide it")
    return given


def _in_order(values: Any, order: Sequence[int]) -> Any:
    """A list with one entry per image, reordered like the images. Other values stay: the reader refuses them."""
    fits = isinstance(values, list) and len(values) == len(order)
    return [values[place] for place in order] if fits else values


def _check_unicode(record: Any) -> None:
    """Raises RowError for half of a surrogate pair, which can be neither tokenized nor written."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RowError("json", "the record is not Unicode text: it holds half a surrogate pair") from error


def _path(image: Any, rule: PathRule) -> str:
    if not isinstance(image, str) or not image:
        raise RowError("image_missing", f"an image must be a path; got {image!r:.80}")
    return rule(image)


def _tidied(text: str, instruction: str) -> str:
    """The text with its leading markers on a line of their own. The rest follows, with the instruction in
    front of it unless it has the instruction already.
    """
    leading = _LEADING.match(text)
    markers, rest = (
        (IMAGE_MARKER * leading.group().count(IMAGE_MARKER), text[leading.end() :]) if leading else ("", text)
    )
    if instruction and instruction not in rest:
        rest = f"{instruction} {rest.lstrip()}"
    return f"{markers}\n{rest}" if markers else rest


def _encodings(
    extra: Mapping[str, Any], depth: str | None, names: Sequence[str], paths: Sequence[str], root: Path
) -> list[str]:
    """The row's own encodings if it has them.

    Else: `depth` for a source named "depth" of more than 8 bits if `depth` is not None, "rgb" for all others.
    """
    if extra.get("encodings") is not None:
        return list(encodings_of(extra, names))
    return [
        depth if depth is not None and name == "depth" and not _is_8_bit(path, depth, root) else "rgb"
        for name, path in zip(names, paths, strict=True)
    ]


def _is_8_bit(path: str, encoding: str, root: Path) -> bool:
    """Whether a depth image has 8 bits per channel. False for an image that cannot be read; the reader refuses it."""
    try:
        probe_size(confined_path(path, os.path.realpath(root)), encoding, path)
    except BadImage as error:
        return error.reason == "bit_depth"
    return False
