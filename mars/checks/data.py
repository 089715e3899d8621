"""`mars data check`: everything that can be wrong with files of rows, before any run, in one table."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean

from mars.checks.answers import disagreement
from mars.config.schema import TrainConfig
from mars.data.pixels.cells import read_cell
from mars.data.pixels.headers import HeaderCache, cache_file
from mars.data.pixels.images import decoded_size
from mars.data.prompts.boxes import BoxFrames, box_space_of, truth_frame
from mars.data.prompts.budget import ImageBudget, check_names, limited, num_image_tokens
from mars.data.prompts.chat import PromptEncoder
from mars.data.prompts.lengths import measure, overlong
from mars.data.prompts.templates import apply_templates, has_instruction
from mars.data.prompts.tokenizer import model_type_of
from mars.data.rows.dataset import PromptSet, read_prompts, undecodable
from mars.data.rows.files import fingerprint_of, unusable_files
from mars.data.rows.problems import Problem, report
from mars.errors import DataError
from mars.inputs import prompt_templates, rewards_of
from mars.rewards.contract import RewardFn
from mars.rewards.functions import RewardsBySet, check_truth, load_reward
from mars.types import ImageRef, Prompt

BARS = 12
BAR_WIDTH = 40
SPLITS = ("train", "test", "val", "validation", "valid", "eval", "dev", "held_out")


@dataclass
class CheckResult:
    """What was found. lengths: row -> tokens of its longest view. overlong: rows that a run would drop."""

    num_rows: int = 0
    prompts: list[Prompt] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    overlong: list[Problem] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)
    image_tokens: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    repeated: int = 0
    own_instruction: int = 0
    header_seconds: float = 0.0
    decoded: int = 0


def check(config: TrainConfig, files: Sequence[str], held_out: Sequence[str]) -> CheckResult:
    """Read, measure, decode and score all rows of `files` and `held_out`.

    Every problem of every row is in the result. Rows longer than data.max_prompt_tokens are apart: they are no
    mistake, a run drops them. Images are decoded in full where data.decode_at_start says so.
    Raises DataError for files that cannot be read, with what is wrong with the others' rows, and SetupError
    without the model's files.
    """
    broken = unusable_files([*files, *held_out], config.data.image_root)
    if broken:
        raise DataError("\n".join(broken))
    model, data = config.model, config.data
    encoder = PromptEncoder.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    budget = ImageBudget.from_pretrained(model.path, data.min_image_pixels, data.max_image_pixels)
    model_type = model_type_of(model.path)
    frames = BoxFrames(box_space_of(model.box_space, model_type), budget)
    rewards = rewards_of(config)
    reward = load_reward(rewards, config.reward.scorer)
    template_of = prompt_templates(data.template, rewards, frames.box_space, model_type)
    result = CheckResult()
    for group in (files, held_out):
        if group:
            try:
                _read(result, config, group, rewards)
            except DataError as error:
                broken.append(str(error))
    if broken:
        raise DataError("\n".join([*broken, *([report(result.problems, result.num_rows)] if result.problems else [])]))
    rewards.check_sets(prompt.data_source for prompt in result.prompts)
    start = time.perf_counter()
    asked = []
    for prompt in result.prompts:
        result.own_instruction += has_instruction(prompt)
        try:
            asked += apply_templates(PromptSet((prompt,), {}, ""), template_of, "error").prompts
        except DataError as error:
            result.problems.append(Problem(prompt.row, "template", str(error)))
    if not result.problems:  # else they may hide the rows that have it
        check_names(data.source_image_pixels, asked)
    asked, narrow = limited(asked, data.source_image_pixels, budget)
    result.prompts, result.problems = list(asked), [*result.problems, *narrow]
    result.lengths, refused = measure(asked, encoder, budget, config.anchor.image_layout)
    result.problems += refused
    result.overlong = overlong(result.lengths, data.max_prompt_tokens)
    for prompt in asked:
        for source in prompt.sources:
            result.image_tokens[source.name].append(num_image_tokens(decoded_size(source.image), budget))
    result.header_seconds += time.perf_counter() - start
    if data.decode_at_start:
        result.problems += undecodable(asked)
        result.decoded = sum(len(prompt.sources) for prompt in asked)
    result.problems += _disagreements(rewards, reward, asked, frames)
    result.problems += _overlap(asked, set(held_out))
    result.repeated = _num_repeated(asked)
    result.problems.sort(key=lambda problem: _place(problem.row, [*files, *held_out]))
    return result


def _read(result: CheckResult, config: TrainConfig, files: Sequence[str], rewards: RewardsBySet) -> None:
    """Add the rows of `files` to the result."""
    start = time.perf_counter()
    with HeaderCache(cache_file(fingerprint_of(files))) as cache:
        truth = partial(_problem_of_truth, rewards)
        reading = read_prompts(files, config.data.image_root, truth, cache.probe)
    result.header_seconds += time.perf_counter() - start
    result.num_rows += reading.num_rows
    result.problems += reading.problems
    bad = {problem.row for problem in reading.problems}
    usable = [prompt for prompt in reading.prompts if prompt.row not in bad]
    result.prompts += usable
    wanted = config.data.images_per_row
    if wanted is not None:
        result.problems += [
            Problem(prompt.row, "num_images", f"{len(prompt.sources)} images, data.images_per_row={wanted}")
            for prompt in usable
            if len(prompt.sources) != wanted
        ]


def _problem_of_truth(rewards: RewardsBySet, prompt: Prompt) -> str | None:
    if not rewards.has(prompt.data_source):
        return None  # the whole set is refused
    return check_truth(rewards.of(prompt.data_source), prompt.truth, prompt.extra_info, truth_frame(prompt))


def _disagreements(
    rewards: RewardsBySet, reward: RewardFn, prompts: Sequence[Prompt], frames: BoxFrames
) -> list[Problem]:
    found = ((prompt, disagreement(prompt, rewards.of(prompt.data_source), reward, frames)) for prompt in prompts)
    return [Problem(prompt.row, "agreement", reason) for prompt, reason in found if reason is not None]


def _overlap(prompts: Sequence[Prompt], held_out: set[str]) -> list[Problem]:
    """Rows with an image, or without images with a question, that a row of another split has.

    A row's split: held-out for `held_out` files, else the split it declares, else the one its file is named after.
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
                detail = f"{name} is in {other_row} too: {other_split} and {split} overlap"
                problems.append(Problem(prompt.row, "overlap", detail))
                break
    return problems


class _ImageIdentity:
    """Equal for images of equal bytes. Only files of equal length are read."""

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


def _place(row: str, files: Sequence[str]) -> tuple[int, int]:
    """Where a row "file:number" stands."""
    file, _, number = row.rpartition(":")
    return files.index(file), int(number)


def _split_of(prompt: Prompt, held_out: set[str]) -> str:
    file = prompt.row.rpartition(":")[0]
    if file in held_out:
        return "held-out"
    declared = prompt.extra_info.get("split")
    if declared:
        return str(declared)
    words = Path(file).stem.lower().replace("-", "_").replace(".", "_").split("_")
    return next((split for split in SPLITS if split in words), "train")


def _text(prompt: Prompt) -> str:
    return "\n".join(message.text for message in prompt.messages)


def _num_repeated(prompts: Sequence[Prompt]) -> int:
    """Rows that say the same about the same images as an earlier one."""
    return len(prompts) - len({(_text(p), p.truth, tuple(source.image for source in p.sources)) for p in prompts})


def check_lines(result: CheckResult, config: TrainConfig) -> list[str]:
    """The result for a terminal, one fact per line; the table of problems is apart."""
    bad = {problem.row for problem in result.problems}
    longer = {problem.row for problem in result.overlong} - bad
    usable = result.num_rows - len(bad) - len(longer)
    rows_per_second = result.num_rows / max(result.header_seconds, 1e-9)
    limit = config.data.max_prompt_tokens
    lines = [
        f"rows           {usable} of {result.num_rows} usable, {len(bad)} with problems, {len(longer)} overlong",
        f"sets           {_counted(prompt.data_source for prompt in result.prompts)}",
        f"sources        {_counted(f'{len(prompt.sources)} images' for prompt in result.prompts)}",
        f"headers        read and measured at {rows_per_second:.0f} rows/s; {result.decoded} images decoded in full",
        f"reward         {rewards_of(config)}; {result.own_instruction} rows say themselves how to answer",
    ]
    if result.repeated:
        lines.append(f"repeated       {result.repeated} rows say the same about the same images as an earlier one")
    for name, tokens in result.image_tokens.items():
        lines.append(f"image tokens   {name}: {min(tokens)} to {max(tokens)}, mean {fmean(tokens):.0f}")
    if result.lengths:
        lengths = list(result.lengths.values())
        lines.append(f"prompt tokens  {min(lengths)} to {max(lengths)}, mean {fmean(lengths):.0f}; {limit} are allowed")
        lines += _histogram(lengths)
    if longer:
        lines.append(
            f"overlong       {len(longer)} rows are dropped and counted with data.on_bad_sample=drop, else refused:"
        )
        lines += [f"  {problem.row}  {problem.detail}" for problem in result.overlong if problem.row in longer]
    return lines


def _histogram(lengths: Sequence[int]) -> list[str]:
    """Bars over equal ranges of tokens."""
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
