"""Ask a model questions: `evaluate` scores the answers at once, `infer` keeps them in files and can be resumed."""

from __future__ import annotations

import fcntl
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from mars.answers.files import append_answers, read_answers, write_answers
from mars.answers.record import Answer, BoxFrames, PromptLength, answer_of, answers_of
from mars.errors import DataError, SetupError
from mars.evaluation.files import ResultPaths, read_manifest
from mars.evaluation.public import public_entries
from mars.evaluation.score import num_cut_off, record_of, reward_means
from mars.evaluation.summary import summarize
from mars.evaluation.unreadable import left_out
from mars.output.files import write_atomically
from mars.output.progress import progress
from mars.rewards.contract import RewardScorer
from mars.rewards.functions import RewardsBySet
from mars.rollout.collect import collect, score_stream
from mars.rollout.engine import FinishedSample, RolloutEngine, UnreadableRequest, ended
from mars.rollout.plan import RolloutPlan
from mars.types import Prompt, RolloutRequest, View, view_name

logger = logging.getLogger(__name__)

Views = Literal["multi", "mono", "all"]

EVALUATION_STEP = 0
"""Step of an evaluation's sampling seeds. Training steps count from 1, so no training step has the same seeds."""


@dataclass(frozen=True)
class EvaluationParts:
    """What an evaluation uses. plan: the multi view and every mono view of each prompt.

    threshold: see `summarize`. rewards: which reward function `scorer` applies to which data source.
    max_bad_fraction: share of the prompts that may be left out because they cannot be read.
    by_prompt: whether all responses to a prompt are scored together.
    """

    engine: RolloutEngine
    scorer: RewardScorer
    plan: RolloutPlan
    decode: Callable[[Sequence[int]], str]
    frames: BoxFrames
    prompt_length: PromptLength
    threshold: float
    rewards: RewardsBySet
    max_bad_fraction: float
    by_prompt: bool = False


@dataclass(frozen=True)
class Evaluation:
    """answers: each with its reward. result: that of `summarize` for these answers, with three more keys: "reward"
    (`reward_means`), "cut_off" (`num_cut_off`) and "unreadable" (prompt id -> reason)."""

    answers: Sequence[Answer]
    result: Mapping[str, Any]


def evaluate(parts: EvaluationParts, prompts: Sequence[Prompt], *, name: str, step: int, model: str) -> Evaluation:
    """Answer the multi view and the mono views of all prompts in one engine call; score and summarize the answers.

    The seeds do not depend on `step`, so that the evaluations of a run are paired. A prompt that cannot be read is left
    out with all its views. Raises DataError if too many prompts cannot be read.
    """
    requests = parts.plan.requests(prompts, step=EVALUATION_STEP)
    with ended(parts.engine.generate(requests)) as finished:
        scored = score_stream(
            prompts,
            requests,
            finished,
            decode=parts.decode,
            frames=parts.frames,
            scorer=parts.scorer,
            step=step,
            by_prompt=parts.by_prompt,
        )
    unreadable = left_out(prompts, scored.unreadable, parts.max_bad_fraction)
    rollouts = collect(prompts, requests, scored.samples, unreadable)
    numbers = {prompt.prompt_id: number for number, prompt in enumerate(prompts)}
    found = answers_of(rollouts, step, frames=parts.frames, prompt_length=parts.prompt_length)
    answers = [replace(answer, number=numbers[answer.prompt_id]) for answer in found]
    records = [record_of(answer, parts.rewards.of(answer.data_source)) for answer in answers]
    result = summarize(records, name=name, step=step, model=model, threshold=parts.threshold)
    added = {"reward": reward_means(answers), "cut_off": num_cut_off(answers), "unreadable": unreadable}
    return Evaluation(answers, {**result, **added})


@dataclass(frozen=True)
class Questions:
    """What `infer` can ask. requests: those for all views of all prompts.

    identity: name -> value of everything that the answers depend on (model, questions, settings).
    dropped: number of bad rows that are left out, by reason.
    max_bad_fraction: share of the prompts that may be left out because they cannot be read.
    """

    prompts: Sequence[Prompt]
    requests: Sequence[RolloutRequest]
    decode: Callable[[Sequence[int]], str]
    frames: BoxFrames
    prompt_length: PromptLength
    identity: Mapping[str, Any]
    dropped: Mapping[str, int]
    max_bad_fraction: float


def infer(
    questions: Questions,
    paths: ResultPaths,
    views: Views,
    start_engine: Callable[[], AbstractContextManager[RolloutEngine]],
) -> list[Path]:
    """In one engine call, ask all requests for `views` that have no answers in `paths` yet. Then write the files in the
    public format (mars/evaluation/public.py).

    Returns the file of all answers and the files in the public format. The answers to a request are appended as soon as
    all of them are there. If all requests have answers already, no engine is started. A question that cannot be read is
    left out with all its views, and named in the manifest; the next call asks it again.

    Raises
    - DataError if `paths` holds damaged answers or answers of another identity, if no question has a view of `views`,
      or if too many questions cannot be read;
    - SetupError if another process writes the same results.
    """
    wanted = [request for request in questions.requests if _is_wanted(request.view, views)]
    if not wanted:
        raise DataError(
            f"--views {views}: no question has two sources or more; got {len(questions.prompts)} questions; "
            "give --views multi"
        )
    paths.folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(paths.lock):
        kept = _open(questions, paths, wanted)
        done = Counter((answer.prompt_id, answer.view) for answer in kept)
        missing = [request for request in wanted if not done[request.prompt_id, request.view]]
        logger.info("%s: %d of %d requests have answers", paths.answers, len(wanted) - len(missing), len(wanted))
        if missing:
            with start_engine() as engine:
                reasons = _ask(questions, missing, engine, paths.answers)
            unreadable = left_out(questions.prompts, reasons, questions.max_bad_fraction)
            if unreadable:
                _leave_out(questions, paths, unreadable, wanted)
        return _write_public(paths)


def _is_wanted(view: View, views: Views) -> bool:
    return views == "all" or (view is None) == (views == "multi")


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Lock the results: two writers would each ask all questions. The system releases the lock of a killed process."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SetupError(
                f"{path.parent}: another process writes these results; wait for it, or give another OUT"
            ) from error
        yield


def _open(questions: Questions, paths: ResultPaths, wanted: Sequence[RolloutRequest]) -> tuple[Answer, ...]:
    """Keep only the answers to complete requests in the answers file, and return them.

    Also write the manifest, which says what earlier calls have asked and this call asks.
    """
    asked: Counter[str] = Counter()
    for request in wanted:
        asked[view_name(request.view)] += request.num_samples
    kept: tuple[Answer, ...] = ()
    unreadable: dict[str, str] = {}
    if paths.answers.exists() and paths.answers.stat().st_size:  # without answers an old manifest does not matter
        before = read_manifest(paths.manifest)
        _check_identity(paths, before["identity"], questions.identity)
        asked = Counter({**before["asked"], **asked})
        kept = _complete(paths, questions.requests)
        asked_again = {request.prompt_id for request in wanted}
        unreadable = {key: why for key, why in before["unreadable"].items() if key not in asked_again}
    _write_manifest(paths, questions, asked, unreadable)
    write_answers(paths.answers, kept)
    return kept


def _complete(paths: ResultPaths, requests: Sequence[RolloutRequest]) -> tuple[Answer, ...]:
    """The answers to requests that have all their samples. Other requests are asked again, with the same seeds."""
    file = read_answers(paths.answers)
    answers = file.checked(allow_cut=True)
    if file.is_cut:
        logger.warning("%s: the last line was cut off; its answer is left out and asked again", paths.answers)
    have = Counter((answer.prompt_id, answer.view) for answer in answers)
    complete = {(r.prompt_id, r.view) for r in requests if have[r.prompt_id, r.view] == r.num_samples}
    return tuple(answer for answer in answers if (answer.prompt_id, answer.view) in complete)


def _check_identity(paths: ResultPaths, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    names = list(dict.fromkeys([*before, *now]))
    if before.get("model_fingerprint") == now.get("model_fingerprint") is not None:
        names.remove("model")  # the same weights may be in another folder
    differing = [name for name in names if before.get(name) != now.get(name)]
    if differing:
        table = "\n".join(f"  {name}: in the file {before.get(name)}, now {now.get(name)}" for name in differing)
        raise DataError(
            f"{paths.answers}: holds answers of another model, other questions or settings:\n{table}\n"
            "give another OUT, or delete these files"
        )


def _write_manifest(
    paths: ResultPaths, questions: Questions, asked: Mapping[str, int], unreadable: Mapping[str, str]
) -> None:
    content = {"identity": questions.identity, "asked": dict(asked), "dropped": dict(questions.dropped),
               "unreadable": dict(unreadable)}  # fmt: skip
    write_atomically(paths.manifest, json.dumps(content, indent=2) + "\n")


def _leave_out(
    questions: Questions, paths: ResultPaths, unreadable: Mapping[str, str], wanted: Sequence[RolloutRequest]
) -> None:
    """Remove the questions in `unreadable` from the answers and from the manifest's counts of asked samples.

    The manifest then names them as unreadable.
    """
    manifest, answers = read_manifest(paths.manifest), read_answers(paths.answers).checked()
    asked = Counter(manifest["asked"])
    views = {request.view for request in wanted}
    asked.subtract(Counter(view_name(a.view) for a in answers if a.prompt_id in unreadable and a.view not in views))
    for request in wanted:
        asked[view_name(request.view)] -= request.num_samples * (request.prompt_id in unreadable)
    write_answers(paths.answers, [answer for answer in answers if answer.prompt_id not in unreadable])
    _write_manifest(paths, questions, asked, {**manifest["unreadable"], **unreadable})


def _ask(questions: Questions, requests: Sequence[RolloutRequest], engine: RolloutEngine, path: Path) -> dict[str, str]:
    """Ask all requests in one engine call.

    Returns prompt id -> reason of the questions that cannot be read.
    """
    unreadable: dict[str, str] = {}
    numbers = {prompt.prompt_id: (number, prompt) for number, prompt in enumerate(questions.prompts)}
    finished: dict[int, list[FinishedSample]] = defaultdict(list)
    total = sum(request.num_samples for request in requests)
    with ended(engine.generate(requests)) as call:
        samples: Iterable[FinishedSample | UnreadableRequest] = chain.from_iterable(call)
        for sample in progress(samples, "Asking", total):
            request = requests[sample.request]
            if isinstance(sample, UnreadableRequest):
                unreadable.setdefault(request.prompt_id, sample.reason)
                continue
            group = finished[sample.request]
            group.append(sample)
            if len(group) == request.num_samples:
                number, prompt = numbers[request.prompt_id]
                append_answers(path, [_answer(questions, number, prompt, request, done) for done in group])
                del finished[sample.request]
    return unreadable


def _answer(
    questions: Questions, number: int, prompt: Prompt, request: RolloutRequest, sample: FinishedSample
) -> Answer:
    completion = sample.completion
    text = questions.decode(completion.token_ids)
    frames, prompt_length = questions.frames, questions.prompt_length
    return answer_of(
        number, prompt, request, sample.index, text, completion, frames=frames, prompt_length=prompt_length
    )


def _write_public(paths: ResultPaths) -> list[Path]:
    answers = read_answers(paths.answers).checked()
    files = [paths.answers]
    for view in dict.fromkeys(answer.view for answer in answers):
        entries = public_entries([answer for answer in answers if answer.view == view])
        write_atomically(paths.public(view), json.dumps(entries, indent=1) + "\n")
        files.append(paths.public(view))
    return files
