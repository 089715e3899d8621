"""`mars ray submit`: check the settings here, send them and the user's files to a cluster, and follow the job."""

from __future__ import annotations

import logging
import math
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
import yaml

from mars import interrupts
from mars.cli.ray_job import CONFIG_FILE as JOB_CONFIG_FILE
from mars.cli.ray_job import JOB_FILE, description
from mars.cli.script import command_of
from mars.cli.submitted_settings import (
    SentFiles,
    check_cluster,
    check_kind,
    refuse_secret,
    sent_overrides,
    sent_settings,
)
from mars.cluster.job_package import files_of_job, write_package
from mars.cluster.jobs import Job, JobServer, new_job_id
from mars.cluster.node import default_folder, running_nodes
from mars.config.command_line import parse_command_line
from mars.config.folders import CONFIG_FILE, quoted
from mars.config.load import composed_yaml, load_config, load_saved_config
from mars.errors import ConfigError, LostContact, SetupError

logger = logging.getLogger(__name__)

_PROGRAM = "mars.cli.ray_job"
# When a job is stopped, Ray waits this many seconds longer than the run needs to end, so that the shell around the run
# can print the exit code.
_STOP_MARGIN_S = 30
# For a run whose settings are not known here.
_LONG_GRACE_S = 600.0
_NOTHING_TO_RESUME = (0, 2, 3, 4, 73)


@dataclass(frozen=True)
class Submission:
    """What is known of a job that is sent. run_dir: None in a dry run.

    texts: name -> text of each file that is added to the user's files, such as the settings of the run.
    """

    name: str
    texts: Mapping[str, str]
    run_dir: str | None
    grace_s: float


def submit(
    address: str | None,
    words: Sequence[str],
    resume: str | None,
    names: Sequence[str],
    excludes: Sequence[str],
    *,
    sft: bool,
    wait: bool,
) -> int:
    """Returns the exit code of the run; without `wait`, 0.

    words: EXPERIMENT, options of `python -m mars.main` and settings. names: those of --env. Raises MarsError.
    """
    folder = Path.cwd()
    environment = environment_of(names, os.environ)
    files = files_of_job(folder, excludes)
    sent = SentFiles(folder, set(files), environment)
    submission = _resumed(resume, words, sent) if resume is not None else _new(words, sent, sft=sft)
    if submission is None:
        return 0
    server = JobServer(server_address(address, os.environ))
    job_id = new_job_id(submission.name)
    interrupts.say_consequence(_how_to(server, job_id))
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch, "job.zip")
        write_package(package, folder, files, submission.texts)
        stop_s = math.ceil(submission.grace_s) + _STOP_MARGIN_S
        job = Job(job_id, _PROGRAM, package, stop_s, environment)
        interrupts.defer()  # a Ctrl-C right after the job is sent must not leave it running: `follow` stops it
        server.submit(job, {"run": submission.run_dir or "dry run"})
    logger.info("job %s runs on the cluster of %s", job_id, server.address)
    if not wait:
        typer.echo(f"{job_id}\n{_how_to(server, job_id)}")
        return 0
    code = None
    try:
        code = _followed(server, job_id)
        return code
    finally:
        _say_end(submission.run_dir, code, server)


def follow(address: str | None, job_id: str) -> int:
    """Print what a job prints, and return its exit code."""
    server = JobServer(server_address(address, os.environ))
    interrupts.say_consequence(_how_to(server, job_id))
    return _followed(server, job_id)


def stop(address: str | None, job_id: str) -> None:
    server = JobServer(server_address(address, os.environ))
    if server.stop(job_id):
        typer.echo(f"job {job_id} is stopping; {_how_to(server, job_id)}")
    else:
        typer.echo(f"job {job_id} is not running")


def _followed(server: JobServer, job_id: str) -> int:
    try:
        return server.follow(job_id)
    except LostContact as error:
        raise LostContact(f"{error}; {_how_to(server, job_id)}") from error


def _how_to(server: JobServer, job_id: str) -> str:
    script = f"{command_of('ray_submit.sh')} --address {shlex.quote(server.address)}"
    return f"to follow it: {script} --follow {job_id}; to stop it: {script} --stop {job_id}"


def _say_end(run_dir: str | None, code: int | None, server: JobServer) -> None:
    """code: None if the end of the job was not seen."""
    if run_dir is None:
        return
    logger.info("the run's directory is %s", run_dir)
    if code not in _NOTHING_TO_RESUME:
        script = f"{command_of('ray_submit.sh')} --address {shlex.quote(server.address)}"
        end = "if it has ended" if code is None else f"exit code {code}"
        logger.info("%s; to go on: %s --resume %s", end, script, shlex.quote(run_dir))


def server_address(given: str | None, environment: Mapping[str, str]) -> str:
    """--address, else RAY_API_SERVER_ADDRESS, else the job server of the head that ray_up.sh has started here.

    Like the rest of mars, this ignores RAY_ADDRESS. Raises SetupError.
    """
    if given or environment.get("RAY_API_SERVER_ADDRESS"):
        return given or environment["RAY_API_SERVER_ADDRESS"]
    for node in running_nodes(default_folder()):
        if node.job_server is not None:
            return node.job_server
    raise SetupError(
        "--address: there is no head of a Ray cluster on this machine that ray_up.sh has started; give the address of "
        "a job server (http://HOST:8265) or of a head (HOST:6379)"
    )


def environment_of(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that --env names, with their values in `environment`.

    Raises ConfigError for a name that is not set, and for NAME=VALUE: others on the machine could read the value in the
    command line.
    """
    for name in names:
        if "=" in name:
            raise ConfigError(
                f"--env: give the name alone; got {name.partition('=')[0]}=...; its value is taken from here"
            )
        if name not in environment:
            raise ConfigError(f"--env: {name} is not set here; export it, or leave --env {name} out")
    return {name: environment[name] for name in names}


def _new(words: Sequence[str], sent: SentFiles, *, sft: bool) -> Submission | None:
    """None if the settings were only to be shown."""
    root = "sft" if sft else "train"
    arguments = list(words)
    if arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
        arguments[0] = f"experiment={arguments[0]}"
    line = parse_command_line(root, "ray_submit.sh [options] -- [EXPERIMENT]", arguments)
    if line.show_config:
        typer.echo(composed_yaml(root, line.overrides, line.config_dirs), nl=False)
        return None
    config = load_config(root, line.overrides, line.config_dirs)
    check_cluster(config)
    settings = sent_settings(config, sent)
    texts = {
        JOB_CONFIG_FILE: yaml.safe_dump(settings, sort_keys=False),
        JOB_FILE: description(line.overrides, None, dry_run=line.dry_run),
    }
    run_dir = settings["run"]["dir"]
    logger.info("run.dir is %s; it must be on a file system that all nodes share", run_dir)
    return Submission(config.run.name, texts, None if line.dry_run else run_dir, config.checkpoint.grace_s)


def _resumed(resume: str, overrides: Sequence[str], sent: SentFiles) -> Submission:
    """Checks the settings on this machine if the folder of the run is on it."""
    run_dir = Path(os.path.abspath(resume))
    given = next((text for text in overrides if text.lstrip("+").startswith("cluster.address=")), None)
    if given is not None:
        raise ConfigError(f"{given}: ray_submit.sh sets cluster.address itself; leave it out")
    for override in overrides:
        if override.startswith("-"):
            raise ConfigError(f"{override}: no option follows --resume RUN --, only settings to change (key=value)")
        refuse_secret(override.partition("=")[0], override, sent.variables)
    name, grace_s = run_dir.name, _LONG_GRACE_S
    if (run_dir / CONFIG_FILE).is_file():
        fixed = [f"run.dir={quoted(str(run_dir))}", "run.resume=true"]
        config = load_saved_config(run_dir / CONFIG_FILE, [*fixed, *overrides, "cluster.address=auto"])
        check_kind(config)
        overrides = sent_overrides(overrides, config, sent)
        name, grace_s = config.run.name, config.checkpoint.grace_s
    else:
        logger.info("%s is not on this machine; its settings are checked on the cluster", run_dir)
    texts = {JOB_FILE: description([*overrides, "cluster.address=auto"], str(run_dir), dry_run=False)}
    return Submission(name, texts, str(run_dir), grace_s)
