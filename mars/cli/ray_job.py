"""What a job runs on the cluster: `python -m mars.cli.ray_job [--environment NAME]`, in its working directory.

`mars ray submit` has put the job's description there. Functions import what they need only when called, so that signals
are handled from the first milliseconds on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mars import interrupts

JOB_FILE = ".mars_job.json"
CONFIG_FILE = ".mars_job.yaml"


def description(overrides: Sequence[str], resume: str | None, *, dry_run: bool) -> str:
    """The content of JOB_FILE. overrides: those of the command line, for the record of the run. resume: run.dir of a
    run to continue with `overrides`; None for a new run, whose settings are in CONFIG_FILE."""
    return json.dumps({"overrides": list(overrides), "resume": resume, "dry_run": dry_run})


def main(argv: Sequence[str]) -> int:
    """argv: empty, or --environment and the name under which the head has the job's variables."""
    if argv:
        from mars.cluster.job_secrets import take

        os.environ.update(take(argv[1]))
    job: dict[str, Any] = json.loads(Path(JOB_FILE).read_text(encoding="utf-8"))
    from mars.config.load import load_saved_config
    from mars.config.schema import SftConfig

    if job["resume"] is not None:
        from mars.cli.resume import resume
        from mars.cli.submitted_settings import check_kind
        from mars.config.folders import CONFIG_FILE as RUN_CONFIG_FILE

        run_dir = Path(job["resume"])
        if (run_dir / RUN_CONFIG_FILE).is_file():
            check_kind(load_saved_config(run_dir / RUN_CONFIG_FILE, job["overrides"]))
        resume(run_dir, job["overrides"])
        return 0
    config = load_saved_config(Path(CONFIG_FILE), [])
    if isinstance(config, SftConfig):
        from mars import sft
        from mars.supervised.dry_run import report as report_sft

        report_sft(config) if job["dry_run"] else sft.train(config, job["overrides"])
    else:
        from mars import main as training
        from mars.checks.dry_run import report

        report(config) if job["dry_run"] else training.train(config, job["overrides"])
    return 0


if __name__ == "__main__":
    interrupts.end_at_once()
    from mars.process import run_command

    run_command(lambda: main(sys.argv[1:]))
