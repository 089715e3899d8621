"""The exit code of a followed job, its output over lost connections, and what Ctrl-C does, with a fake job server."""

from __future__ import annotations

import signal
import threading
from collections import deque
from enum import StrEnum
from types import SimpleNamespace

import pytest
import requests

from mars import interrupts
from mars.cluster import jobs
from mars.cluster.jobs import Job, JobServer, new_job_id
from mars.errors import LostContact, SetupError, WorkerError

LOST = requests.ConnectionError("gone")


class Status(StrEnum):
    RUNNING, STOPPED, SUCCEEDED, FAILED = "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"

    def is_terminal(self):
        return self is not Status.RUNNING


def details(status, code=None, message=""):
    return SimpleNamespace(status=Status[status], driver_exit_code=code, message=message)


class Client:
    """answers: of get_job_info, in turn; the last one again and again. outputs: of each connection for the output; an
    exception in it ends the connection."""

    def __init__(self, *answers, outputs=((),), logs=""):
        self.answers, self.outputs, self.logs = deque(answers), deque(outputs), logs
        self.stopped, self.submitted, self.stored = 0, None, {}

    def get_job_info(self, job_id):
        if threading.current_thread() is not threading.main_thread():  # the one that copies the output
            return details("RUNNING")
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    async def tail_job_logs(self, job_id):
        for text in self.outputs.popleft() if len(self.outputs) > 1 else self.outputs[0]:
            if isinstance(text, Exception):
                raise text
            yield text

    def get_job_logs(self, job_id):
        return self.logs

    def stop_job(self, job_id):
        self.stopped += 1
        return self.stopped > 1

    def submit_job(self, **submitted):
        self.submitted = submitted

    def _do_request(self, method, path, data):
        self.stored[path] = data
        return SimpleNamespace(status_code=200)


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(jobs, "_POLL_S", 0)
    monkeypatch.setattr(jobs, "_RETRY_S", 0)
    monkeypatch.setattr(jobs, "_LOST_AFTER_S", 0)

    def of(client):
        monkeypatch.setattr(jobs, "_client_of", lambda address: client)
        return JobServer("http://head:8265")

    return of


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (details("SUCCEEDED", 0), 0),
        (details("FAILED", 3), 3),
        (details("FAILED", -signal.SIGKILL), 128 + signal.SIGKILL),
        (details("STOPPED"), 75),
    ],
)
def test_the_exit_code_is_that_of_the_run(serve, end, code):
    assert serve(Client(details("RUNNING"), end)).follow("job") == code


@pytest.mark.parametrize(
    ("logs", "code"),
    [
        ("saved\nmars: exit code 7\n", 7),
        ("mars: exit code 0\n", 0),
        ("mars: exit code 3\nkilled here\n", 75),  # some run printed it; the shell has not come to its last line
        ("not mars: exit code 3\n", 75),
    ],
)
def test_a_stopped_job_has_its_exit_code_in_its_last_line(serve, logs, code):
    assert serve(Client(details("STOPPED"), logs=logs)).follow("job") == code


def test_a_job_that_could_not_start_or_was_lost_has_no_exit_code(serve):
    with pytest.raises(WorkerError, match="job: the node is gone"):
        serve(Client(details("FAILED", message="the node is gone"))).follow("job")


def test_an_answer_that_comes_late_is_no_end(serve, monkeypatch):
    monkeypatch.setattr(jobs, "_LOST_AFTER_S", 60)
    server = serve(Client(details("RUNNING"), LOST, RuntimeError("status code 500"), details("FAILED", 4)))
    assert server.follow("job") == 4


def test_no_answer_is_no_exit_code_of_the_run(serve):
    with pytest.raises(LostContact, match="may still run") as failure:
        serve(Client(details("RUNNING"), LOST)).follow("job")
    assert failure.value.exit_code == 69


def test_a_job_that_is_not_there(serve):
    with pytest.raises(SetupError, match="no such job"):
        serve(Client(RuntimeError("Request failed with status code 404: none."))).follow("job")


def test_output_goes_on_where_the_connection_was_lost(serve, capsys):
    outputs = (["one\n", "tw", OSError("lost")], ["one\ntwo", "\n", OSError("lost")], ["one\ntwo\nthree\n"])
    client = Client(*[details("RUNNING")] * 3, details("SUCCEEDED", 0), outputs=outputs)
    assert serve(client).follow("job") == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_ctrl_c_stops_the_job_and_its_exit_code_is_passed_on(serve):
    def interrupt():
        signal.raise_signal(signal.SIGINT)  # in this thread, so that it is seen at once
        return details("RUNNING")

    client = Client(interrupt, details("RUNNING"), details("STOPPED"), logs="mars: exit code 7\n")
    with interrupts.handled(lambda error: None):
        interrupts.listen()
        assert serve(client).follow("job") == 7
        assert interrupts.finish() is None, "the exit code is not that of an interruption"
    assert client.stopped == 2, "again, because the job had not started yet"


def test_ctrl_c_while_a_job_is_sent_stops_it(serve):
    client = Client(details("RUNNING"), details("FAILED", 75))
    with interrupts.handled(lambda error: None):
        interrupts.listen()
        interrupts.defer()
        signal.raise_signal(signal.SIGINT)
        assert serve(client).follow("job") == 75
        assert interrupts.reason() is None
    assert client.stopped > 0


def test_variables_are_not_in_what_ray_shows(serve, tmp_path):
    client = Client(details("RUNNING"))
    server = serve(client)
    server.submit(Job("job", "mars.cli.ray_job", tmp_path / "job.zip", 90, {"API_KEY": "very secret"}), {"run": "/run"})
    assert "very secret" not in str(client.submitted)
    ((path, content),) = client.stored.items()
    assert content == b'{"API_KEY": "very secret"}'
    name = path.rpartition("/")[2]
    assert f"mars.cli.ray_job --environment {name};" in client.submitted["entrypoint"]
    assert client.submitted["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "90"}


def test_an_id_can_be_told_by_the_run_and_is_new():
    ids = {new_job_id("my run/7") for _ in range(20)}
    assert len(ids) == 20
    assert all(job_id.startswith("my-run-7-") and job_id.replace("-", "").isalnum() for job_id in ids)
