"""The cold start as a job: check rows and model, start the ranks, train, and save the policy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from mars import interrupts, plugin, watchdog
from mars.actor.trainer import Rendezvous, SupervisedTrainer
from mars.build import CACHED_IMAGES, shared_files, tracker_copies
from mars.checkpoint.resume import StartingPoint, data_fingerprint
from mars.checks.model import ModelCheck
from mars.checks.packages import check_packages
from mars.checks.trackers import with_checked_trackers
from mars.cluster.node_facts import SharedFiles
from mars.cluster.restarts import WorkerReport
from mars.config.schema import SftConfig
from mars.data.pixels.images import DecodeImage, decode_image
from mars.fit import last_step
from mars.inputs import prompt_processor
from mars.job import enter_run, record_attempt, say_how_to_go_on, worker_report
from mars.live_report.kept import report_kept
from mars.report.later_steps import remove_later_steps
from mars.run_dir.activity import ActivityFile
from mars.run_dir.lock import RunLock
from mars.run_dir.outcome import POLICY_FOLDER, failures_logged
from mars.supervised.batches import Batches
from mars.supervised.loop import SupervisedParts, fit_supervised
from mars.supervised.rows import load_rows, stream_of, warmup_warning
from mars.tracking.jsonl import METRICS_FILE, JsonlTracker
from mars.tracking.multi import MultiTracker
from mars.tracking.named import KEY as TRACKERS
from mars.tracking.named import own_specs
from mars.tracking.tracker import Tracker
from mars.train import TrainingJob, start_unless_complete, train
from mars.types import TokenRules

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SupervisedSpec:
    """Builds one rank of the cold start's trainer in the process that calls it.

    total_steps: the optimizer step at which the learning rate reaches 0.
    """

    config: SftConfig
    rules: TokenRules
    total_steps: int

    def __call__(self, rendezvous: Rendezvous, decode: DecodeImage = decode_image) -> SupervisedTrainer:
        from mars.actor.supervised_trainer import FsdpSupervisedTrainer

        process = prompt_processor(self.config, self.rules, CACHED_IMAGES, decode).process
        return FsdpSupervisedTrainer(self.config, self.rules, rendezvous, process, self.total_steps)


def run(config: SftConfig, overrides: Sequence[str], lock: RunLock) -> None:
    """Train `model.path` on `data.train_files` and save it to <run.dir>/policy.

    overrides: those of the command line, for the record. lock: of run.dir; taken here if the caller has not taken it.
    """
    say_how_to_go_on(config)
    config = with_checked_trackers(config)
    check_packages(config)
    with ModelCheck(config, in_process=config.cluster.kind == "local") as model_check:
        rows = load_rows(config)
        model_check.finish()
    stream = stream_of(config, rows)
    run_dir = Path(config.run.dir)
    catalogue = enter_run(config, lock)
    prompts = {prompt.prompt_id: prompt for prompt in rows.train.prompts}
    data = data_fingerprint(prompt.prompt_id for prompt in rows.train.prompts)
    last = last_step(config.run, stream)
    start = start_unless_complete(config, catalogue, stream, prompts, data, run_dir / POLICY_FOLDER)
    if start is None:
        return
    if warning := warmup_warning(config.sft.warmup_steps, last):
        logger.warning("%s", warning)
    tracker: MultiTracker | None = None

    def open_tracker(start: StartingPoint) -> Tracker:
        nonlocal tracker
        if start.logged_step is not None:
            remove_later_steps(run_dir, start.state.step, start.logged_step)
        primary = JsonlTracker(run_dir / METRICS_FILE, start.logged_step)
        copies = tracker_copies(config, last, start.logged_step, processes.update)
        switched_off = tracker.switched_off if tracker else 0
        tracker = MultiTracker(primary, copies, 0, 0, config.tracking.timeout_s, switched_off)
        return tracker

    with report_kept(run_dir, config.tracking, lock), failures_logged(catalogue.events, run_dir):
        own = own_specs(config.tracking.to)
        functions = plugin.record(run_dir, {TRACKERS: own}) if own else {}
        processes = record_attempt(config, overrides, functions, start, last, catalogue.events)
        report, attempt = worker_report(catalogue.events, processes), processes.folder
        spec = SupervisedSpec(config, rows.form.encoder.token_rules(), last)
        sets = [some.prompts for some in (rows.train, rows.held_out) if some is not None]
        files = shared_files(config, chain.from_iterable(sets))
        with ranks(config, spec, files, attempt, report) as trainer:
            processes.update()
            interrupts.set_grace(config.checkpoint.grace_s)
            parts = SupervisedParts(trainer, Batches(rows.form, config.sft, config.run.seed), stream, rows.held_out)
            loop = partial(fit_supervised, parts, config=config, num_dropped=sum(rows.train.dropped.values()))
            number = config.sft.num_workers
            job = TrainingJob(config, trainer, number, loop, open_tracker, catalogue, prompts, data)
            with watchdog.watched(config.cluster.watchdog_s, attempt, ActivityFile(attempt).write):
                end = train(job, start)
            interrupts.hold()
            trainer.save(str((run_dir / POLICY_FOLDER).absolute()))
        catalogue.events.log("finished", end.step)
    logger.info("the policy is in %s", run_dir / POLICY_FOLDER)


def ranks(
    config: SftConfig, spec: SupervisedSpec, files: SharedFiles, log_dir: Path, report: WorkerReport
) -> AbstractContextManager[SupervisedTrainer]:
    """The trainer, in this process or on Ray workers (`cluster.kind`). files: that all nodes of the workers must
    have."""
    cluster = config.cluster
    if cluster.kind == "local":
        from mars.cluster.local import local_rank

        alone = Rendezvous(rank=0, world_size=1, init_method=None, timeout_s=cluster.call_timeout_s)
        return local_rank(cluster.device, cluster.threads_per_worker, partial(spec, alone))
    from mars.cluster.supervised import ray_ranks

    return ray_ranks(config, spec, files, log_dir, report)
