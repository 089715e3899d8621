"""`mars data check`: prepare rows as a run does, score a perfect and an empty answer to each, and compare splits."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mars.checks.answers import disagreement
from mars.config.schema import TrainConfig
from mars.config.templates import BY_REWARD
from mars.data.pixels.cells import read_cell
from mars.data.pixels.headers import HeaderCache, cache_file
from mars.data.pixels.images import decoded_size
from mars.data.prompts.boxes import BoxFrames
from mars.data.prompts.budget import check_limits, num_image_tokens
from mars.data.prompts.prepare import NO_TEMPLATE, PreparedRows, RowSettings, prepare_rows, warn_of_silent_prompts
from mars.data.prompts.template_rows import refuse_chat_template
from mars.data.prompts.wording import unshown_images
from mars.data.rows.files import fingerprint_of, unusable_files
from mars.data.rows.problems import RowProblem, report
from mars.errors import DataError
from mars.inputs import evaluation_settings, prompt_format, rewards_of, row_settings
from mars.rewards.contract import RewardFn
from mars.rewards.functions import RewardsBySet, load_list_reward, load_reward
from mars.types import ImageRef, Prompt

EXAMPLES = 3
BARS = 12
BAR_WIDTH = 40
SPLITS = ("train", "test", "val", "validation", "valid", "eval", "dev", "held_out")


@dataclass(frozen=True)
class CheckResult:
    """The result for all files. Fields that are not described here are those of PreparedRows.

    problems: all problems except overlong rows, in file order.
    overlong: the rows that are too long. image_tokens: source name -> tokens of each of its images.
    repeated: number of rows that are equal to an earlier one.
    num_mono: number of rows that a run also shows as mono views.
    unshown: row -> (mono view, words in this view's text that mention, or may mention, images it does not show).
    """

    num_rows: int
    rendered: tuple[Prompt, ...]
    problems: list[RowProblem]
    overlong: list[RowProblem]
    lengths: Mapping[str, int]
    image_tokens: Mapping[str, Sequence[int]]
    repeated: int
    num_mono: int
    unshown: Mapping[str, tuple[str, str]]
    num_instructing: int
    templates: Mapping[str, int]
    num_decoded: int
    seconds: float


def check(config: TrainConfig, files: Sequence[str], held_out: Sequence[str]) -> CheckResult:
    """Prepare all rows of `files` and `held_out` as a run does, score two answers to each, compare the splits.

    Rows longer than data.max_prompt_tokens are listed separately, because they are not mistakes. Images are decoded in
    full if data.decode_at_start is true. The two answers are a perfect and an empty one; a user's own reward function
    is not checked with them (mars/checks/answers.py). Raises
    - DataError if a file cannot be used;
    - SetupError if the model's files are missing;
    - ConfigError if a data set has no reward, or if data.source_image_pixels names a source that no row has.
    """
    broken = unusable_files([*files, *held_out], config.data.image_root)
    if broken:
        raise DataError("\n".join(broken))
    form, rewards = prompt_format(config), rewards_of(config)
    reward = _reward(config, rewards)
    settings = row_settings(config, form)
    sets = [pair for pair in ((files, settings), (held_out, evaluation_settings(settings))) if pair[0]]
    groups = _prepare(sets)
    if config.data.template == BY_REWARD:
        warn_of_silent_prompts(groups)
    found = [problem for group in groups for problem in group.problems]
    problems = [problem for problem in found if problem.reason != "overlong"]
    overlong = [problem for problem in found if problem.reason == "overlong"]
    rendered = tuple(prompt for group in groups for prompt in group.rendered)
    lengths = {row: length for group in groups for row, length in group.lengths.items()}
    rewards.check_sets(prompt.data_source for prompt in rendered)
    if not problems:  # without problems every row has been read, so a source that no row has is a mistake
        check_limits(config.data.source_image_pixels, form.budget, rendered)
    untrue = {problem.row for problem in problems if problem.reason == "truth"}
    scorable = [prompt for prompt in rendered if prompt.row in lengths and prompt.row not in untrue]
    problems += [*_disagreements(rewards, reward, scorable, form.frames), *_overlap(rendered, set(held_out))]
    problems.sort(key=lambda problem: _place(problem.row, [*files, *held_out]))
    image_tokens = defaultdict(list)
    for source in (source for prompt in rendered if prompt.row in lengths for source in prompt.sources):
        image_tokens[source.name].append(num_image_tokens(decoded_size(source.image), form.budget))
    views = [(p, own.shown_views(p)) for (_, own), group in zip(sets, groups, strict=True) for p in group.rendered]
    mono = [prompt for prompt, shown in views if any(len(view or ()) == 1 for view in shown)]
    return CheckResult(
        num_rows=sum(group.num_rows for group in groups),
        rendered=rendered,
        problems=problems,
        overlong=overlong,
        lengths=lengths,
        image_tokens=image_tokens,
        repeated=_num_repeated(scorable),
        num_mono=len(mono),
        unshown={prompt.row: words for prompt in mono if (words := unshown_images(prompt)) is not None},
        num_instructing=sum(group.num_instructing for group in groups),
        templates=sum((Counter(group.templates) for group in groups), Counter()),
        num_decoded=sum(group.num_decoded for group in groups),
        seconds=sum(group.seconds for group in groups),
    )


def _reward(config: TrainConfig, rewards: RewardsBySet) -> RewardFn:
    """A function that scores one answer, also with `reward.by_prompt`, where the reward takes a list."""
    if not config.reward.by_prompt:
        return load_reward(rewards, config.reward.scorer)
    score = load_list_reward(rewards, config.reward.scorer)
    return lambda item: score([item])[0]


def _prepare(sets: Sequence[tuple[Sequence[str], RowSettings]]) -> list[PreparedRows]:
    """Prepare each set of files. If a file cannot be read, raises DataError with the problems of all sets.

    Raises TemplateFailure for a chat template that fails on every row, or on every row with images.
    """
    prepared, broken = [], []
    for files, settings in sets:
        try:
            with HeaderCache(cache_file(fingerprint_of(files))) as cache:
                prepared.append(prepare_rows(files, settings, cache.probe))
        except DataError as error:
            broken.append(str(error))
    if broken:
        problems = [problem for rows in prepared for problem in rows.problems]
        table = [report(problems, sum(rows.num_rows for rows in prepared))] if problems else []
        raise DataError("\n".join([*broken, *table]))
    refuse_chat_template(row for rows in prepared for row in rows.tried)
    return prepared


def _disagreements(
    rewards: RewardsBySet, reward: RewardFn, prompts: Sequence[Prompt], frames: BoxFrames
) -> list[RowProblem]:
    found = ((prompt, disagreement(prompt, rewards.of(prompt.data_source), reward, frames)) for prompt in prompts)
    return [RowProblem(prompt.row, "agreement", reason) for prompt, reason in found if reason is not None]


def _overlap(prompts: Sequence[Prompt], held_out: set[str]) -> list[RowProblem]:
    """Rows that share an image with a row of another split. Rows without images are compared by their question.

    The split of a row is "held-out" in the files of `held_out`. For other rows it is extra_info.split, else the
    split in the file's name, else "train".
    """
    first: dict[str, tuple[str, str]] = {}
    problems = []
    identity = _ImageIdentity([source.image for prompt in prompts for source in prompt.sources])
    for prompt in prompts:
        split = _split_of(prompt, held_out)
        keys = {identity.of(source.image): source.name for source in prompt.sources}
        for key, name in (keys or {_text(prompt): "the question"}).items():
            other_row, other_split = first.setdefault(key, (prompt.row, split))
            if other_split != split:
                detail = f"{name} is also in {other_row}: the splits {other_split} and {split} overlap"
                problems.append(RowProblem(prompt.row, "overlap", detail))
                break
    return problems


class _ImageIdentity:
    """Gives files with equal bytes the same key, and table cells with equal bytes too.

    A file is read only if another file has the same length. So a file and a cell with equal bytes may differ in key.
    """

    def __init__(self, images: Sequence[ImageRef]) -> None:
        files = {image.path for image in images if image.row is None}
        self._lengths = {path: os.stat(path).st_size for path in files}
        self._shared = {length for length, count in Counter(self._lengths.values()).items() if count > 1}
        self._digests: dict[ImageRef, str] = {}

    def of(self, image: ImageRef) -> str:
        if image.row is None and self._lengths[image.path] not in self._shared:
            return image.path
        if image not in self._digests:
            data = (
                Path(image.path).read_bytes()
                if image.row is None
                else read_cell(image.path, image.row, image.slot or 0)
            )
            self._digests[image] = hashlib.sha256(data).hexdigest()
        return self._digests[image]


def _place(row: str, files: Sequence[str]) -> tuple[int, list[int]]:
    """Sort key of a row "file:3" or "file:3, question 2": (position of the file in `files`, the numbers)."""
    file, _, place = row.rpartition(":")
    return files.index(file), [int(number) for number in place.split(", question ")]


def _split_of(prompt: Prompt, held_out: set[str]) -> str:
    file = prompt.row.rpartition(":")[0]
    if file in held_out:
        return "held-out"
    declared = prompt.extra_info.get("split")
    if declared:
        return str(declared)
    words = re.split(r"[-._@:]", Path(file).stem.lower())
    return next((split for split in SPLITS if split in words), "train")


def _text(prompt: Prompt) -> str:
    return "\n".join(message.text for message in prompt.messages)


def _num_repeated(prompts: Sequence[Prompt]) -> int:
    """Number of rows with the same text, truth and images as an earlier row. The bytes of images are not compared."""
    return len(prompts) - len({(_text(p), p.truth, tuple(source.image for source in p.sources)) for p in prompts})


def check_lines(result: CheckResult, config: TrainConfig) -> list[str]:
    """The result for a terminal, without the table of problems."""
    bad = {problem.row for problem in result.problems}
    longer = {problem.row for problem in result.overlong} - bad
    usable = result.num_rows - len(bad) - len(longer)
    speed, decoded = result.num_rows / max(result.seconds, 1e-9), result.num_decoded
    limit = config.data.max_prompt_tokens
    lines = [
        f"rows           {usable} of {result.num_rows} usable, {len(bad)} with problems, {len(longer)} overlong",
        f"sets           {_counted(prompt.data_source for prompt in result.rendered)}",
        f"sources        {_counted(f'{len(prompt.sources)} images' for prompt in result.rendered)}",
        f"headers        read and measured at {speed:.0f} rows/s; {decoded} images decoded in full",
        f"reward         {rewards_of(config)}",
        f"template       {_templates(result)}",
    ]
    if result.repeated:
        lines.append(f"repeated       {result.repeated} rows have the text, truth and images of an earlier row")
    lines += _wording_lines(result, config)
    for name, tokens in result.image_tokens.items():
        lines.append(f"image tokens   {name}: {min(tokens)} to {max(tokens)}, mean {fmean(tokens):.0f}")
    if result.lengths:
        lengths = list(result.lengths.values())
        lines.append(f"prompt tokens  {min(lengths)} to {max(lengths)}, mean {fmean(lengths):.0f}; {limit} are allowed")
        lines += _histogram(lengths)
    if longer:
        lines.append(f"overlong       {len(longer)} rows, dropped with data.on_bad_sample=drop and refused with error:")
        lines += [f"  {problem.row}  {problem.detail}" for problem in result.overlong if problem.row in longer]
    return lines


def _templates(result: CheckResult) -> str:
    """Which rows get which template: "vqa for 18 rows, none for 2 rows, whose text says how to answer"."""
    given = sorted((name, count) for name, count in result.templates.items() if name != NO_TEMPLATE)
    parts = [f"{name} for {count} rows" for name, count in given]
    if result.num_instructing:
        parts.append(f"none for {result.num_instructing} rows, whose text says how to answer")
    if silent := result.templates.get(NO_TEMPLATE, 0):
        parts.append(f"none for {silent} rows, whose text does not say how to answer")
    return ", ".join(parts) or "none"


def _wording_lines(result: CheckResult, config: TrainConfig) -> list[str]:
    """How many rows have a mono view whose text mentions images that the view does not show, with examples."""
    several = result.num_mono
    if not several or config.anchor.image_layout == "repeated":  # "repeated" shows as many images as the text says
        return []
    wording = f"(anchor.wording={config.anchor.wording})"
    if not result.unshown:
        return [
            f"mono views     {several} rows with several images: no text mentions images that its view does not show "
            f"{wording}"
        ]
    lines = [
        f"mono views     {len(result.unshown)} of {several} rows with several images: the text mentions, or may "
        f"mention, images that the view does not show {wording}:"
    ]
    examples = list(result.unshown.items())[:EXAMPLES]
    return lines + [f'  {row}  {view}: "{words}"' for row, (view, words) in examples]


def _histogram(lengths: Sequence[int]) -> list[str]:
    """A bar for each of up to BARS equally wide ranges of `lengths`, which are numbers of tokens."""
    low, high = min(lengths), max(lengths)
    width = max(-(-(high - low + 1) // BARS), 1)
    counts = Counter((length - low) // width for length in lengths)
    most, digits = max(counts.values()), len(str(high))
    return [
        f"  {low + i * width:>{digits}} - {min(low + (i + 1) * width - 1, high):>{digits}}  "
        f"{'#' * -(-counts[i] * BAR_WIDTH // most):<{BAR_WIDTH}} {counts[i]}"
        for i in range((high - low) // width + 1)
    ]


def _counted(words) -> str:
    return ", ".join(f"{word} {count}" for word, count in Counter(words).most_common()) or "none"
