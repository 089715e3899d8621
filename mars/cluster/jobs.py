"""Jobs on a Ray cluster: submit a job, print its output, stop it, and get its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from mars import interrupts
from mars.cluster import job_secrets
from mars.cluster.token import has_token
from mars.errors import LostContact, SetupError, WorkerError

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_RETRY_S = 1.0
_ANSWER_S = 30.0
# How long requests are repeated if a job server does not answer any more.
_LOST_AFTER_S = 60.0
_LAST_OUTPUT_S = 20.0
# A connection without output for this long is made again: it may be broken without a sign, as after a laptop's sleep.
_SILENCE_S = 120.0
# Proxies from the environment are not used, because they would see the token and the variables of --env.
_NO_PROXIES = {"http": "", "https": ""}
_INTERRUPTED = 75
_NO_SUCH_JOB = "status code 404"
_ADDRESS_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray would take them before the address it is given
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
_NO_ANSWER = (requests.RequestException, OSError)
# Ray does not tell the exit code of a job that was stopped, so the job prints it in its last line. Ray sends SIGTERM to
# the shell too. The shell's trap lets it survive, and the program does not inherit the trap.
_EXIT_CODE = re.compile(r"^mars: exit code (\d+)\s*\Z", re.MULTILINE)
_SHELL = 'trap : TERM; "${{MARS_PYTHON:-python}}" -m {}; code=$?; echo "mars: exit code $code"; exit $code'


@dataclass(frozen=True)
class Job:
    """program: module and arguments for Python. package: zip file with its working directory. stop_s: time that the
    program has to end after SIGTERM. environment: secret variables that it gets."""

    job_id: str
    program: str
    package: Path
    stop_s: int
    environment: Mapping[str, str]


def new_job_id(name: str) -> str:
    """name: of the run, by which other users recognise the job."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)}-{secrets.token_hex(4)}"


class JobServer:
    """The job server of a cluster.

    address: http://host:port of the job server, or host:port of the head. Raises SetupError if it does not answer.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        try:
            self._client = _client_of(address)
        except (*_NO_ANSWER, RuntimeError, ValueError) as error:
            reason = _first_line(error).partition(". ")[0].rstrip(".")
            raise SetupError(
                f"--address: no job server at {address}: {reason}; it listens on 127.0.0.1 of the head only, unless it "
                "was started with --dashboard-host: submit there, or open a way to it with "
                "`ssh -N -L 8265:127.0.0.1:8265 HEAD` and give --address http://127.0.0.1:8265; the token of the "
                "cluster must be on this machine"
            ) from error

    def submit(self, job: Job, metadata: Mapping[str, str]) -> None:
        """Start the job. metadata: shown by lists of jobs. Raises SetupError."""
        program = job.program
        try:
            if job.environment:
                name = job_secrets.new_name()
                self._store(name, job_secrets.content_of(job.environment))
                program += f" --environment {name}"
            self._client.submit_job(
                entrypoint=_SHELL.format(program),
                submission_id=job.job_id,
                runtime_env={
                    "working_dir": str(job.package),
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(job.stop_s)},
                },
                metadata=dict(metadata),
            )
        except (*_NO_ANSWER, RuntimeError) as error:
            raise SetupError(f"--address: the job server at {self.address} did not take the job: {error}") from error

    def _store(self, name: str, content: bytes) -> None:
        answer = self._client._do_request("PUT", f"/api/packages/gcs/{name}", data=content)
        if answer.status_code != requests.codes.ok:
            raise RuntimeError(f"status {answer.status_code}")

    def stop(self, job_id: str) -> bool:
        """Send SIGTERM to the job. Returns False if it is not running. Raises SetupError or LostContact."""
        return self._answer(job_id, self._client.stop_job)

    def follow(self, job_id: str) -> int:
        """Print the job's output until it ends, and return its exit code. The first Ctrl-C stops the job, also if it
        was pressed before this call and deferred (`interrupts.defer`).

        Raises LostContact if the job server does not answer for a minute, SetupError if there is no such job, and
        WorkerError if the job could not start or was lost.
        """
        with _Output(self._client, job_id):
            details = self._end_of(job_id)
        if details.driver_exit_code is not None:
            return _as_exit_code(details.driver_exit_code)
        if details.status == "STOPPED":
            code = _EXIT_CODE.search(self._answer(job_id, self._client.get_job_logs))
            return int(code[1]) if code else _INTERRUPTED
        raise WorkerError(f"job {job_id}: {details.message}")

    def _end_of(self, job_id: str) -> Any:
        try:
            interrupts.allow()
            return self._wait_for_end(job_id)
        except KeyboardInterrupt:
            interrupts.settle()
        logger.info("stopping job %s; the run saves its state; Ctrl-C again leaves it to itself", job_id)
        while not self._answer(job_id, self._client.stop_job):
            if self._details(job_id).status.is_terminal():
                break
            time.sleep(_RETRY_S)  # it has not started yet
        return self._wait_for_end(job_id)

    def _wait_for_end(self, job_id: str) -> Any:
        while not (details := self._details(job_id)).status.is_terminal():
            time.sleep(_POLL_S)
        return details

    def _details(self, job_id: str) -> Any:
        return self._answer(job_id, self._client.get_job_info)

    def _answer(self, job_id: str, ask: Callable[[str], Any]) -> Any:
        """The job server's answer about the job. If there is no answer, asks again for a minute."""
        lost_at = time.monotonic() + _LOST_AFTER_S
        while True:
            try:
                return ask(job_id)
            except (*_NO_ANSWER, RuntimeError) as error:
                if _NO_SUCH_JOB in str(error):
                    raise SetupError(f"job {job_id}: {self.address} has no such job") from error
                if time.monotonic() > lost_at:
                    raise LostContact(
                        f"job {job_id}: the job server at {self.address} does not answer ({_first_line(error)}), and "
                        "the job may still run"
                    ) from error
            time.sleep(_RETRY_S)


def _client_of(address: str) -> Any:
    """Ray's client of job servers, changed to wait at most 30 s for an answer: Ray itself sets no limit."""
    for name in _ADDRESS_VARIABLES:
        os.environ.pop(name, None)
    if has_token(os.environ):
        os.environ["RAY_AUTH_MODE"] = "token"  # before the import, which reads it
    if "://" not in address:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()  # Ray would try for 40 s
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *args: Any, **kwargs: Any) -> requests.Response:
            try:
                return super()._do_request(*args, timeout=_ANSWER_S, proxies=_NO_PROXIES, **kwargs)
            except RayError as error:  # the token is not the cluster's
                raise RuntimeError(str(error)) from error

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    return Client(address)


class _Output:
    """During the block, a thread copies a job's output to stdout.

    The job must have ended when the block ends. Then the rest is printed, unless an exception ends the block.
    """

    def __init__(self, client: Any, job_id: str) -> None:
        self._client, self._job_id = client, job_id
        self._printed = 0
        self._ended, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-output", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        if kind is None:
            self._thread.join(_LAST_OUTPUT_S)
            if self._thread.is_alive():
                logger.warning("job %s: its last output could not be read", self._job_id)
        self._given_up.set()

    def _run(self) -> None:
        import aiohttp

        while not self._given_up.is_set():
            ended = self._ended.is_set()
            try:
                asyncio.run(self._copy())
                if ended or self._client.get_job_info(self._job_id).status.is_terminal():
                    return
            except (aiohttp.ClientError, RuntimeError, OSError) as error:
                logger.debug("job %s: the connection for its output was lost: %s", self._job_id, error)
            self._given_up.wait(_RETRY_S)

    async def _copy(self) -> None:
        seen, stream = 0, aiter(self._client.tail_job_logs(self._job_id))
        while True:
            try:
                text = await asyncio.wait_for(anext(stream), _SILENCE_S)
            except StopAsyncIteration:
                return
            seen += len(text)
            new = seen - self._printed
            if new > 0:
                sys.stdout.write(text[-new:])
                sys.stdout.flush()
                self._printed = seen


def _as_exit_code(code: int) -> int:
    """The exit code. If a signal has ended the process: 128 + the signal's number, as in a shell."""
    return code if code >= 0 else 128 - code


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
