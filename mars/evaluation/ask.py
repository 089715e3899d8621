"""Answers of a model to questions, kept as they come: `mars eval infer`. A second call asks only what is missing."""

from __future__ import annotations

import fcntl
import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from mars.errors import DataError, SetupError
from mars.evaluation.answers import Answer, to_record, view_name
from mars.evaluation.files import ResultPaths, read_about, read_answers
from mars.evaluation.public import public_entries
from mars.output.files import append, write_atomically
from mars.output.progress import progress
from mars.rollout.collect import BoxFrames
from mars.rollout.engine import FinishedSample, RolloutEngine
from mars.types import Prompt, RolloutRequest, View

logger = logging.getLogger(__name__)

Views = Literal["multi", "mono", "all"]

# (number, bytes) of the blocks of a file that its fingerprint reads, evenly spaced. A training step changes all of a
# model's; four of a picture are most of it.
_OF_WEIGHTS, _OF_IMAGES = (64, 16384), (4, 16384)


@dataclass(frozen=True)
class Questions:
    """What is asked. requests: all views of all prompts, whichever are wanted now.

    prompt_length: tokens of a request's prompt, images expanded. identity: what the answers depend on beside the
    seed, by name: the model, the questions, the settings. Answers of another identity are not mixed with these.
    """

    prompts: Sequence[Prompt]
    requests: Sequence[RolloutRequest]
    decode: Callable[[Sequence[int]], str]
    frames: BoxFrames
    prompt_length: Callable[[RolloutRequest], int]
    identity: Mapping[str, Any]
    dropped: Mapping[str, int]


def infer(
    questions: Questions,
    paths: ResultPaths,
    views: Views,
    start_engine: Callable[[], AbstractContextManager[RolloutEngine]],
) -> list[Path]:
    """Ask what `paths` does not hold yet, in one engine call, and write the public files; the files are returned.

    Every question's answers are appended as soon as all of them are there. Without a missing answer no engine starts.

    Raises DataError: the results there are of another model, other questions or settings, or damaged; no question has
    such a view. SetupError: another process writes them.
    """
    wanted = [request for request in questions.requests if _is_wanted(request.view, views)]
    if not wanted:
        raise DataError(f"--views {views}: no question has two sources or more; got {len(questions.prompts)} questions")
    paths.folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(paths.lock):
        kept = _open(questions, paths, wanted)
        done = Counter((answer.prompt_id, answer.view) for answer in kept)
        missing = [request for request in wanted if not done[request.prompt_id, request.view]]
        logger.info("%s: %d of %d answers are there", paths.answers, len(wanted) - len(missing), len(wanted))
        if missing:
            with start_engine() as engine:
                _ask(questions, missing, engine, paths.answers)
        return _write_public(paths)


def model_fingerprint(model: str) -> str | None:
    """Hash of a model folder's config.json and of blocks of its weights; None for a hub name.

    It tells checkpoints apart in a moment, whatever their paths and times; it is no proof that files are whole.
    """
    folder = Path(model)
    if not folder.is_dir():
        return None
    whole = sha256()
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        whole.update(path.name.encode())
        whole.update(_blocks(path, *_OF_WEIGHTS))
    return whole.hexdigest()


def images_fingerprint(requests: Sequence[RolloutRequest]) -> str:
    """Hash of sizes, encodings and blocks of the image files, in order, wherever they lie.

    It tells pictures of another folder or time apart, as `model_fingerprint` does models. Images inside of parquet
    files are part of the questions' own fingerprint. Raises DataError for a file that cannot be read.
    """
    whole = sha256()
    for image in dict.fromkeys(image for request in requests for image in request.images):
        whole.update(repr((image.size, image.encoding, image.row, image.slot)).encode())
        if image.row is None:
            try:
                whole.update(_blocks(Path(image.path), *_OF_IMAGES))
            except OSError as error:
                raise DataError(
                    f"{image.path}: cannot be read ({error.strerror}); it is an image of the questions"
                ) from error
    return whole.hexdigest()


def prompts_fingerprint(requests: Sequence[RolloutRequest]) -> str:
    """Hash of what the model reads: ids of every view. It changes with template, tokenizer and image layout."""
    whole = sha256()
    for request in requests:
        whole.update(repr((request.prompt_id, request.view, request.prompt_token_ids)).encode())
    return whole.hexdigest()


def _blocks(path: Path, number: int, num_bytes: int) -> bytes:
    """The file's size and `number` blocks of it, from its first byte to its last; all of a small file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= number * num_bytes:
            return f":{size}".encode() + stream.read()
        parts = [f":{size}".encode()]
        for block in range(number):
            stream.seek((size - num_bytes) * block // (number - 1))
            parts.append(stream.read(num_bytes))
    return b"".join(parts)


def _is_wanted(view: View, views: Views) -> bool:
    return views == "all" or (view is None) == (views == "multi")


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Two processes that append to one file would each ask everything. The system frees the lock with its process."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SetupError(
                f"{path.parent}: another process writes these results; wait for it, or give another OUT"
            ) from error
        yield


def _open(questions: Questions, paths: ResultPaths, wanted: Sequence[RolloutRequest]) -> tuple[Answer, ...]:
    """The answers that are there and complete. Afterwards answers.jsonl holds these alone, and about.json says what
    is asked now and was asked before."""
    asked: Counter[str] = Counter()
    for request in wanted:
        asked[view_name(request.view)] += request.num_samples
    kept: tuple[Answer, ...] = ()
    if paths.answers.exists() and paths.answers.stat().st_size:  # else no answer came: there is nothing to mix
        before = read_about(paths.about)
        _check_identity(paths, before["identity"], questions.identity)
        asked = Counter({**before["asked"], **asked})
        kept = _whole(paths, questions.requests)
    about = {"identity": questions.identity, "asked": dict(asked), "dropped": dict(questions.dropped)}
    write_atomically(paths.about, json.dumps(about, indent=2) + "\n")
    write_atomically(paths.answers, "".join(map(_line, kept)))
    return kept


def _whole(paths: ResultPaths, requests: Sequence[RolloutRequest]) -> tuple[Answer, ...]:
    """The answers of requests that have all of theirs; the rest is asked again, with the same seeds."""
    answers, cut = read_answers(paths.answers, drop_cut_line=True)
    if cut:
        logger.warning("%s: the last line was cut off; it is left out and asked again", paths.answers)
    have = Counter((answer.prompt_id, answer.view) for answer in answers)
    whole = {(r.prompt_id, r.view) for r in requests if have[r.prompt_id, r.view] == r.num_samples}
    return tuple(answer for answer in answers if (answer.prompt_id, answer.view) in whole)


def _check_identity(paths: ResultPaths, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    names = list(dict.fromkeys([*before, *now]))
    if before.get("model_fingerprint") == now.get("model_fingerprint") is not None:
        names.remove("model")  # the same weights at another place
    differing = [name for name in names if before.get(name) != now.get(name)]
    if differing:
        table = "\n".join(f"  {name}: there {before.get(name)}, now {now.get(name)}" for name in differing)
        raise DataError(
            f"{paths.answers}: holds answers of another model, other questions or settings:\n{table}\n"
            "give another OUT, or remove this one"
        )


def _ask(questions: Questions, requests: Sequence[RolloutRequest], engine: RolloutEngine, path: Path) -> None:
    """One engine call for all requests. The answers to a request are written together, once all of them are there."""
    numbers = {prompt.prompt_id: (number, prompt) for number, prompt in enumerate(questions.prompts)}
    samples: Iterable[FinishedSample] = chain.from_iterable(engine.generate(requests))
    finished: dict[int, list[FinishedSample]] = defaultdict(list)
    total = sum(request.num_samples for request in requests)
    for sample in progress(samples, "Asking", total):
        request = requests[sample.request]
        group = finished[sample.request]
        group.append(sample)
        if len(group) == request.num_samples:
            number, prompt = numbers[request.prompt_id]
            append(path, "".join(_line(_answer(questions, number, prompt, request, done)) for done in group))
            del finished[sample.request]


def _answer(
    questions: Questions, number: int, prompt: Prompt, request: RolloutRequest, sample: FinishedSample
) -> Answer:
    truth_size, response_size = questions.frames(prompt, request.view)
    return Answer(
        prompt_id=prompt.prompt_id,
        number=number,
        row=prompt.row,
        data_source=prompt.data_source,
        view=request.view,
        sample=sample.index,
        text=questions.decode(sample.completion.token_ids),
        truth=prompt.truth,
        truth_size=truth_size,
        response_size=response_size,
        extra_info=prompt.extra_info,
        finish_reason=sample.completion.finish_reason,
        prompt_tokens=questions.prompt_length(request),
        response_tokens=len(sample.completion.token_ids),
        question=prompt.messages,
        sources=prompt.sources,
    )


def _write_public(paths: ResultPaths) -> list[Path]:
    answers, _ = read_answers(paths.answers, drop_cut_line=False)
    files = [paths.answers]
    for view in dict.fromkeys(answer.view for answer in answers):
        entries = public_entries([answer for answer in answers if answer.view == view])
        write_atomically(paths.public(view), json.dumps(entries, indent=1) + "\n")
        files.append(paths.public(view))
    return files


def _line(answer: Answer) -> str:
    record = to_record(answer)
    record["extra_info"] = _without_nan(record["extra_info"])
    # What JSON has no type for (a date in extra_info) becomes text.
    return json.dumps(record, default=str, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    """Numbers that JSON cannot hold (NaN, infinities) as null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
