"""The jobs: train a policy and save it, evaluate a model, collect a model's answers."""

from __future__ import annotations

import json
import logging
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mars import interrupts, plugin, watchdog
from mars.added_rows import training_stream
from mars.answers.files import step_file, write_answers
from mars.build import build_scorer, build_tracker, evaluation_parts, step_parts, workers
from mars.checkpoint.resume import StartingPoint, data_fingerprint
from mars.checks.hooks import checked_hooks
from mars.checks.model import ModelCheck
from mars.checks.packages import check_packages
from mars.checks.rewards import try_rewards
from mars.checks.trackers import with_checked_trackers
from mars.cluster.environment import gc_paused
from mars.config.schema import TrainConfig
from mars.data.order.stream import refuse_repeats
from mars.errors import SetupError
from mars.evaluation.ask import EVALUATION_STEP, Evaluation, Questions, Views, evaluate, infer
from mars.evaluation.files import ResultPaths
from mars.evaluation.fingerprints import images_fingerprint, model_fingerprint, prompts_fingerprint
from mars.evaluation.questions import convert_questions
from mars.evaluation.summary import eval_metrics
from mars.fit import fit, is_finished, last_step, restored
from mars.hooks.load import specs_of_run, with_resolved_recipe
from mars.inputs import Inputs, evaluation_plan, load_inputs, rewards_of
from mars.job import enter_run, record_attempt, say_how_to_go_on, worker_report
from mars.live_report.kept import report_kept
from mars.output.files import write_atomically
from mars.report.later_steps import remove_later_steps
from mars.report.run_record import EVALUATION_FOLDER
from mars.rewards.contract import RewardScorer
from mars.rewards.functions import user_functions
from mars.rollout.engine import RolloutEngine
from mars.run_dir.activity import ActivityFile
from mars.run_dir.attempt import LOGS_FOLDER
from mars.run_dir.bad_prompts import BadPromptEvents
from mars.run_dir.events import EventLog
from mars.run_dir.lock import RunLock
from mars.run_dir.outcome import POLICY_FOLDER, failures_logged
from mars.run_dir.skipped_updates import SKIPPED_FOLDER, SkippedUpdateFiles
from mars.step import TrainStep, train_step
from mars.step_async import Overlap, train_step_async
from mars.step_parts import PromptRounds
from mars.tracking import named
from mars.tracking.multi import MultiTracker
from mars.tracking.tracker import Tracker
from mars.train import TrainingJob, start_unless_complete, train

logger = logging.getLogger(__name__)


def run(config: TrainConfig, model_check: ModelCheck, overrides: Sequence[str], lock: RunLock) -> None:
    """Check rows, settings and the model, then start the workers, train, and save the policy to <run.dir>/policy.

    model_check: already entered. The caller enters it before it imports this module, so that a process can check the
    model during the import.
    overrides: those of the command line, for the record. lock: of run.dir; taken here if the caller has not taken it.
    """
    say_how_to_go_on(config)
    config = with_checked_trackers(with_resolved_recipe(config))
    check_packages(config)
    hooks = checked_hooks(config)
    inputs = _checked_inputs(config, model_check, with_training_set=True)
    assert inputs.train is not None  # because of with_training_set=True
    stream, prompts = training_stream(config, inputs)
    run_dir, catalogue = Path(config.run.dir), enter_run(config, lock)
    data = data_fingerprint(prompt.prompt_id for prompt in inputs.train.prompts)
    last = last_step(config.run, stream)
    start = start_unless_complete(config, catalogue, stream, prompts, data, run_dir / POLICY_FOLDER)
    if start is None:
        return
    hooks = hooks.for_steps(last)
    restored(hooks, stream, start.state.sampling, config.rollout.schedule)  # before anything is written
    tracker: MultiTracker | None = None

    def open_tracker(start: StartingPoint) -> Tracker:
        nonlocal tracker
        if start.logged_step is not None:
            remove_later_steps(run_dir, start.state.step, start.logged_step)
        switched_off = tracker.switched_off if tracker else 0
        tracker = build_tracker(config, inputs, last, start.logged_step, switched_off, processes.update)
        return tracker

    with report_kept(run_dir, config.tracking, lock), failures_logged(catalogue.events, run_dir):
        processes = record_attempt(config, overrides, _record_functions(config), start, last, catalogue.events)
        report, attempt = worker_report(catalogue.events, processes), processes.folder
        scorer = build_scorer(config, processes.update)
        try:
            try_rewards(scorer, inputs, inputs.train.prompts)
            with workers(config, inputs, with_trainer=True, log_dir=attempt, report=report) as (engine, trainer):
                assert trainer is not None  # because of with_trainer=True
                processes.update()
                interrupts.set_grace(config.checkpoint.grace_s)
                skipped = SkippedUpdateFiles(run_dir / SKIPPED_FOLDER, catalogue.events)
                reports = (BadPromptEvents(catalogue.events, run_dir), skipped.write)
                parts = step_parts(config, inputs, engine, trainer, scorer, *reports, hooks, scorer.counts, prompts)
                evaluate = _evaluation(config, inputs, engine, scorer, catalogue.events)
                settings = {"config": config, "evaluate": evaluate, "num_dropped": sum(inputs.train.dropped.values())}
                loop = partial(fit, parts, stream, **settings, train_step=_train_step(config, stream))
                ranks = config.actor.num_workers
                job = TrainingJob(config, trainer, ranks, loop, open_tracker, catalogue, prompts, data)
                with watchdog.watched(config.cluster.watchdog_s, attempt, ActivityFile(attempt).write):
                    end = train(job, start)
                interrupts.hold()
                trainer.save(str((run_dir / POLICY_FOLDER).absolute()))
        finally:
            scorer.close()
        catalogue.events.log("finished", end.step)
    report = shlex.join(["mars", "report", str(run_dir)])
    logger.info("the policy is in %s; to see how it came about: %s", run_dir / POLICY_FOLDER, report)


def _record_functions(config: TrainConfig) -> Mapping[str, list[dict[str, str]]]:
    """The users' functions that the run uses, recorded as `mars.plugin.record` does."""
    trackers = {named.KEY: named.own_specs(config.tracking.to)}
    rewards = {"reward.function": user_functions(rewards_of(config))}
    return plugin.record(Path(config.run.dir), rewards | specs_of_run(config) | trackers)


def run_evaluation(config: TrainConfig, name: str, step: int, out: Path | None) -> Mapping[str, Any]:
    """Evaluate `model.path` on `data.eval_files`. Returns the result, and writes it as JSON to `out`, if given."""
    check_packages(config)
    with _model_check(config) as model_check:
        inputs = _checked_inputs(config, model_check, with_training_set=False)
    scorer = build_scorer(config)
    try:
        with workers(config, inputs, with_trainer=False, log_dir=_log_dir(config)) as (engine, _):
            result = _evaluate(config, inputs, engine, scorer, name, step).result
    finally:
        scorer.close()
    if out is not None:
        write_result(result, out)
    return result


def _train_step(config: TrainConfig, stream: PromptRounds) -> TrainStep:
    """The function that trains one step: synchronous if `rollout.max_staleness` is 0, else asynchronous."""
    bound, is_last = config.rollout.max_staleness, partial(is_finished, config.run, stream)
    if bound == 0:
        return partial(train_step, is_last=is_last)
    _warn_of_old_weights(config, bound)
    return partial(train_step_async, overlap=Overlap(bound, is_last))


def _warn_of_old_weights(config: TrainConfig, bound: int) -> None:
    """Warn of effects that a user who set only `rollout.max_staleness` does not expect."""
    if config.algorithm.importance_cap is None:
        logger.warning(
            "algorithm.importance_cap is null: with schedule=asynchronous responses come from older weights, "
            "and nothing corrects for that; algorithm.importance_cap=2.0 does"
        )
    if config.algorithm.selection == "nonzero_advantage" and bound == 1:
        logger.warning(
            "rollout.max_staleness is 1: kept prompts beyond data.prompts_per_step would be 2 versions old in the next "
            "step, so they are left out; rollout.max_staleness=2 trains on them"
        )
    logger.warning(
        "rollout.logprob_diff_alarm=%g: with schedule=asynchronous it works in the first step only. Later the "
        "trainer's weights are newer than the engine's, and the difference of log-probs is not the engine's error",
        config.rollout.logprob_diff_alarm,
    )


def _checked_inputs(config: TrainConfig, model_check: ModelCheck, with_training_set: bool) -> Inputs:
    with gc_paused():
        inputs = load_inputs(config, with_training_set)
        if inputs.train is not None and config.data.weights is None and config.recipe.sampler is None:
            refuse_repeats(len(inputs.train.prompts), config.data.prompts_per_step)  # the model check may take a minute
        model_check.finish()
    return inputs


def _log_dir(config: TrainConfig) -> Path:
    return Path(config.run.dir) / LOGS_FOLDER


def _model_check(config: TrainConfig) -> ModelCheck:
    return ModelCheck(config, in_process=config.cluster.kind == "local")


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """Write the result of an evaluation as JSON. Raises SetupError."""
    write_atomically(path, json.dumps(result, indent=2) + "\n")


def _evaluate(
    config: TrainConfig, inputs: Inputs, engine: RolloutEngine, scorer: RewardScorer, name: str, step: int
) -> Evaluation:
    assert inputs.evaluation is not None  # callers check that there is a held-out set
    parts = evaluation_parts(config, inputs, engine, scorer)
    return evaluate(parts, inputs.evaluation.prompts, name=name, step=step, model=config.model.path)


def _evaluation(
    config: TrainConfig, inputs: Inputs, engine: RolloutEngine, scorer: RewardScorer, events: EventLog
) -> Callable[[int], dict[str, float]] | None:
    """A function step -> metrics that evaluates and writes result and answers to the run's folder.

    None if there is no held-out set.
    """
    if inputs.evaluation is None:
        return None
    folder = Path(config.run.dir) / EVALUATION_FOLDER

    def at_step(step: int) -> dict[str, float]:
        name = "before" if step == 0 else f"step {step}"
        with watchdog.stage("evaluation"):
            evaluation = _evaluate(config, inputs, engine, scorer, name, step)
        unreadable = evaluation.result["unreadable"]
        if unreadable:
            events.log("evaluation_incomplete", step, unreadable=unreadable)
        answers = step_file(folder, step)
        try:
            write_result(evaluation.result, answers.with_suffix(".json"))
            write_answers(answers, evaluation.answers)
        except SetupError as error:
            logger.warning("%s: %s; training goes on, and metrics.jsonl has the evaluation's metrics", name, error)
        return eval_metrics(evaluation.result)

    return at_step


def run_inference(config: TrainConfig, questions: str, paths: ResultPaths, views: Views) -> list[Path]:
    """Ask `model.path` the questions, write its answers (see `infer`) and return the files of the answers.

    questions: the file that the user named. A .json file is first converted to the parquet file in data.eval_files.
    """
    check_packages(config)
    dropped: Mapping[str, int] = {}
    if [questions] != config.data.eval_files:
        root, dropped = convert_questions(questions, paths, config.data.image_root, config.data.on_bad_sample)
        config = config.model_copy(update={"data": config.data.model_copy(update={"image_root": root})})
    with _model_check(config) as model_check:
        inputs = _checked_inputs(config, model_check, with_training_set=False)

    @contextmanager
    def start_engine() -> Iterator[RolloutEngine]:
        with workers(config, inputs, with_trainer=False, log_dir=_log_dir(config)) as (engine, _):
            yield engine

    return infer(_questions(config, inputs, dropped), paths, views, start_engine)


def _questions(config: TrainConfig, inputs: Inputs, dropped: Mapping[str, int]) -> Questions:
    if inputs.evaluation is None:
        raise ValueError("there are no questions: data.eval_files was empty")
    prompts = inputs.evaluation.prompts
    requests = evaluation_plan(inputs).requests(prompts, EVALUATION_STEP)
    settings = config.evaluation
    identity: dict[str, Any] = {
        "model": str(Path(config.model.path).resolve()) if Path(config.model.path).is_dir() else config.model.path,
        "model_fingerprint": model_fingerprint(config.model.path),
        "questions": inputs.evaluation.fingerprint,
        "number_of_questions": len(prompts),
        "prompts": prompts_fingerprint(requests),
        "images": images_fingerprint(requests),
        "data.min_image_pixels": config.data.min_image_pixels,
        "data.max_image_pixels": config.data.max_image_pixels,
        "data.source_image_pixels": config.data.source_image_pixels or None,
        "model.dtype": config.model.dtype,
        "model.box_space": inputs.frames.box_space,
        "rollout.engine": config.rollout.engine,
        "rollout.max_response_tokens": config.rollout.max_response_tokens,
        "evaluation.samples_per_prompt": settings.samples_per_prompt,
        "evaluation.temperature": settings.temperature,
        "evaluation.top_p": settings.top_p,
        "run.seed": config.run.seed,
    }
    return Questions(
        prompts=prompts,
        requests=requests,
        decode=inputs.encoder.decode,
        frames=inputs.frames,
        prompt_length=inputs.prompt_length,
        identity=identity,
        dropped=Counter(dropped) + Counter(inputs.evaluation.dropped),
        max_bad_fraction=config.data.max_bad_fraction,
    )
