"""Carry out a study: start what is missing, check each run that has ended, and record it as finished or refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER
from mars.errors import BusyError, ConfigError, DataError
from mars.run_dir.lock import held_by
from mars.tracking.jsonl import METRICS_FILE
from recipe.effect.counts import Wanted, count_rollouts
from recipe.effect.plan import DATA_FOLDER, StudyRun, cold_starts_of, overrides_of
from recipe.effect.processes import Task, last_lines, run_tasks
from recipe.effect.record import RunRecord, State, changed_settings, read_record, write_record
from recipe.effect.results import row_of
from recipe.effect.stages import POLICY_FOLDER, ROOT, Stages

CONSOLE_LOG = "console.log"
TRAIN = (sys.executable, "-m", "mars.main")


@dataclass(frozen=True)
class RunEnd:
    """How a run ended, or how a task before the runs ended: making the rows, or a cold start.

    problem: None if it succeeded; else the reason. If its command failed, this has the last lines of the command's log.
    """

    name: str
    seconds: float
    problem: str | None


class StudyRunner:
    """Carries out the runs of a study in its folder.

    settings: arm -> the settings of its runs (`settings_by_arm`). train: the command that trains; it gets the
    overrides.
    """

    def __init__(self, stages: Stages, settings: Mapping[str, Mapping[str, Any]], train: Sequence[str] = TRAIN) -> None:
        self._stages, self._settings, self._train = stages, settings, train
        self._study, self._out = stages.study, stages.out

    def missing(self, runs: Sequence[StudyRun]) -> list[StudyRun]:
        """The runs that are neither finished nor refused, in order.

        Raises ConfigError if a run was started with other settings than its arm has now.
        """
        found, problems = [], []
        for run in runs:
            record = read_record(self._out / run.name)
            if record is not None and (changes := changed_settings(record, self._settings[run.arm])):
                problems.append(f"{self._out / run.name}: was started with other settings: {'; '.join(changes[:5])}")
            if record is None or record.state == "started":
                found.append(run)
        if problems:
            remedy = "remove these folders to run them again, or give another OUT for the changed study"
            raise ConfigError("\n".join([*problems[:10], f"{len(problems)} runs have other settings; {remedy}"]))
        return found

    def refused(self, runs: Sequence[StudyRun]) -> list[RunEnd]:
        """The runs that ended but are not part of the study, with the reasons."""
        records = [(run, read_record(self._out / run.name)) for run in runs]
        return [RunEnd(run.name, 0.0, r.problem) for run, r in records if r is not None and r.state == "refused"]

    def check_idle(self, runs: Sequence[StudyRun]) -> None:
        """Raises BusyError if runs are still training."""
        holders = {run.name: held_by(self._out / run.name) for run in runs}
        found = [
            f"{name}: process {holder.pid} of an earlier call is training it"
            for name, holder in holders.items()
            if holder
        ]
        if found:
            remedy = (
                "give the command again when they have ended, or end them (kill and the number): they can be resumed"
            )
            raise BusyError("\n".join([*found, remedy]))

    def stages_before(self, runs: Sequence[StudyRun]) -> list[Task]:
        """The missing stages that the runs need: rows and cold starts."""
        return self._stages.tasks(cold_starts_of(runs)) if runs else []

    def carry_out(self, runs: Sequence[StudyRun], jobs: int) -> Generator[RunEnd]:
        """Carry out the missing stages and the runs, at most `jobs` processes at a time. Yields how each ended.

        A run starts after the stages that it needs; an interrupted one goes on from its newest checkpoint. If the
        caller closes the iterator or is interrupted, the processes are ended. Raises ConfigError as `_finish` does.
        """
        by_name = {run.name: run for run in runs}
        tasks = [*self.stages_before(runs), *map(self._task, runs)]
        with closing(run_tasks(tasks, jobs, ROOT)) as ended:
            for end in ended:
                name, run = end.task.name, by_name.get(end.task.name)
                if end.code is None:
                    yield RunEnd(name, 0.0, f"not started, because {' or '.join(end.task.needs)} failed")
                elif end.code:
                    log = last_lines(end.task.log)
                    yield RunEnd(name, end.seconds, f"exit code {end.code}; {end.task.log} ends with\n{log}")
                else:
                    yield RunEnd(name, end.seconds, None if run is None else self._finish(run, end.seconds))

    def _task(self, run: StudyRun) -> Task:
        folder = self._out / run.name
        overrides = overrides_of(self._study, run, self._out, self._stages.policy(run.start))
        begun = (folder / METRICS_FILE).exists() or (folder / CHECKPOINTS_FOLDER).exists()
        resume = ["run.resume=true"] if begun else []
        settings, start = self._settings[run.arm], run.start.number
        record = RunRecord("started", run.arm, run.dial, run.seed, start, settings, overrides, resumed=begun)
        return Task(
            run.name,
            [*self._train, *overrides, *resume],
            folder / CONSOLE_LOG,
            needs=(DATA_FOLDER, run.start.name),
            before=lambda: write_record(folder, record),
        )

    def _finish(self, run: StudyRun, seconds: float) -> str | None:
        """Count the run's rollouts, and record how it ended. Returns the problem, or None.

        Raises ConfigError if no step of the run has the primary metric, because no other run of its arm will have it.
        """
        folder = self._out / run.name
        record = read_record(folder)
        assert record is not None  # written when the run was started
        try:
            count = count_rollouts(folder)
            problem = count.problem(self._wanted(run.arm))
            row = row_of(self._study, run.arm, folder) if problem is None else {}
        except DataError as error:
            return str(error)
        state: State = "finished" if problem is None else "refused"
        counted = replace(record, rollouts_per_prompt=count.per_prompt, problem=problem)
        write_record(folder, replace(counted, state=state, seconds=None if record.resumed else seconds, row=row))
        if not self._study.keep_policies:
            for name in (POLICY_FOLDER, CHECKPOINTS_FOLDER):
                shutil.rmtree(folder / name, ignore_errors=True)
        return problem

    def _wanted(self, arm: str) -> Wanted:
        settings, budget = self._settings[arm], self._study.rollouts(arm)
        every, prompts = settings["tracking.rollouts_every"], settings["tracking.rollout_prompts"]
        return Wanted(budget, self._study.arms[arm].uneven, self._study.steps, every, prompts)
