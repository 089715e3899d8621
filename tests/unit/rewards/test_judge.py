"""The client of a judge, against a server that fails in every way that a service does."""

from __future__ import annotations

import base64
import errno
import io
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mars.errors import ConfigError
from mars.rewards import judge as judge_module
from mars.rewards import judge_cache
from mars.rewards.call_facts import call_lasting, taken_counts
from mars.rewards.judge import Judge, JudgeError, judge_of_environment
from mars.types import ImageRef
from tests.unit.rewards.judge_server import JudgeServer, body, close, cut, drip, hang, judge_server, says, status

KEY = "sk-very-secret"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    taken_counts()
    with judge_server() as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which take no time."""
    found: list[float] = []
    monkeypatch.setattr(judge_module, "_wait", found.append)
    return found


def judge(server: JudgeServer, **options: Any) -> Judge:
    return Judge(server.url, "referee", **{"timeout_s": 30.0, **options})


def test_the_request_is_what_the_endpoint_takes(server: JudgeServer) -> None:
    assert judge(server, temperature=0, max_tokens=8).ask("Is it?", max_tokens=4) == "yes"
    ((path, headers, sent),) = server.requests
    assert path == "/v1/chat/completions"
    messages = [{"role": "user", "content": "Is it?"}]
    assert sent == {"model": "referee", "messages": messages, "temperature": 0, "max_tokens": 4}
    assert "Authorization" not in headers
    counts = taken_counts()
    assert counts.pop("judge/seconds") > 0
    assert counts == {"judge/requests": 1}


@pytest.mark.parametrize("missing", ["JUDGE_URL", "JUDGE_MODEL"])
def test_the_environment_names_a_judge(server: JudgeServer, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setenv("JUDGE_URL", server.url)
    monkeypatch.setenv("JUDGE_MODEL", "referee")
    assert judge_of_environment(max_tokens=4).ask("?") == "yes"
    ((path, _, sent),) = server.requests
    assert (path, sent["model"], sent["max_tokens"]) == ("/v1/chat/completions", "referee", 4)
    monkeypatch.setenv(missing, "")
    with pytest.raises(ConfigError, match="JUDGE_URL, JUDGE_MODEL: not set"):
        judge_of_environment()


@pytest.mark.parametrize(
    ("fault", "least", "most"),
    [
        (status(500), 0.25, 0.5),
        (status(503, Retry_After="soon"), 0.25, 0.5),
        (status(408), 0.25, 0.5),
        (status(429, Retry_After="7"), 7, 7),
        (cut, 0.25, 0.5),
        (close, 0.25, 0.5),
        (body(b"<html>the proxy is sorry</html>"), 0.25, 0.5),
        (body(b"\xff\xfe{"), 0.25, 0.5),
        (body(b""), 0.25, 0.5),
    ],
)
def test_a_fault_that_may_pass_is_tried_again(server: JudgeServer, waits: list[float], fault, least, most) -> None:
    server.steps = [fault, says("no")]
    assert judge(server).ask("Is it?") == "no"
    (wait,) = waits
    assert least <= wait <= most
    counts = taken_counts()
    del counts["judge/seconds"]
    assert counts == {"judge/requests": 2, "judge/retries": 1}


def test_a_server_that_hangs_is_tried_again(server: JudgeServer, waits: list[float]) -> None:
    server.steps = [hang, says("no")]
    assert judge(server, timeout_s=0.3).ask("Is it?") == "no"
    assert len(waits) == 1


def test_a_server_that_sends_a_byte_now_and_then_ends_with_the_deadline(server: JudgeServer, waits) -> None:
    server.steps = [drip] * 9
    with pytest.raises(JudgeError, match="not complete in time"):
        judge(server, deadline_s=0.3, max_tries=9).ask("Is it?")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (status(400, b"no such field"), "HTTP status 400: no such field"),
        (status(401), "HTTP status 401"),
        (status(404), "HTTP status 404"),
        (status(302, Location="http://127.0.0.1:1/"), "HTTP status 302"),
        (says(None), "no text in the response"),
        (body(b"[]"), "no text in the response"),
        (body(b'{"choices": []}'), "no text in the response"),
        (body(b" " * (2**22 + 1)), "more than 4194304 bytes"),
    ],
)
def test_other_faults_are_not_tried_again(server: JudgeServer, waits: list[float], fault, reason) -> None:
    server.steps = [fault]
    with pytest.raises(JudgeError, match=reason):
        judge(server).ask("Is it?")
    assert (len(server.requests), waits) == (1, [])
    assert taken_counts()["judge/failures"] == 1


def test_waits_double_and_end_with_the_tries(server: JudgeServer, waits: list[float]) -> None:
    server.steps = [status(500, b"I am sad")] * 20
    with pytest.raises(JudgeError, match=r"no answer after 9 tries in at most 1000 s; the last: HTTP status 500: I am"):
        judge(server, deadline_s=1000.0, max_tries=9).ask("Is it?")
    bounds = [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert len(set(waits)) == 8


def test_a_refused_connection_is_tried_again(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        alone = Judge(f"http://127.0.0.1:{free.getsockname()[1]}/v1", "referee", max_tries=3)
        with pytest.raises(JudgeError, match=r"after 3 tries .*: \[Errno 111\] Connection refused"):
            alone.ask("Is it?")
    assert len(waits) == 2


def test_a_wait_beyond_the_deadline_is_not_begun(server: JudgeServer, waits: list[float]) -> None:
    server.steps = [status(429, Retry_After="120")]
    with pytest.raises(JudgeError, match="after 1 tries in at most 100 s"):
        judge(server, deadline_s=100.0).ask("Is it?")
    assert (len(server.requests), waits) == (1, [])


def test_a_question_ends_before_the_reward_that_asks_is_killed(server: JudgeServer, waits: list[float]) -> None:
    server.steps = [status(429, Retry_After="95")] * 2
    with call_lasting(100.0), pytest.raises(JudgeError, match="after 1 tries in at most 90 s"):
        judge(server, deadline_s=1000.0).ask("Is it?")
    with call_lasting(1000.0):
        assert judge(server, deadline_s=1000.0).ask("Is it?") == "yes"
    assert waits == [95]


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, 0), ("3", 3), ("0.5", 0.5), ("-1", 0), ("", 0), ("soon", 0), ("nan", 0), ("inf", 0)]
)
def test_seconds_of_retry_after(value: str | None, seconds: float) -> None:
    assert judge_module._retry_after(value) == seconds


def test_dates_of_retry_after() -> None:
    now = datetime.now(UTC)
    assert 50 < judge_module._retry_after(format_datetime(now + timedelta(seconds=60), usegmt=True)) <= 60
    assert judge_module._retry_after(format_datetime(now - timedelta(days=1), usegmt=True)) == 0


# --- the key


def test_the_key_is_sent_and_in_no_message(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server.steps = [says("yes"), status(401, f"wrong key: {KEY}".encode())]
    asking = judge(server, api_key_env="JUDGE_KEY")
    assert asking.ask("Is it?") == "yes"
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    with pytest.raises(JudgeError, match=r"wrong key: \*\*\*") as caught:
        asking.ask("Is it?")
    assert KEY not in f"{caught.value!r} {asking!r} {asking}"


@pytest.mark.parametrize("value", [None, "", "two words", "new\nline", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ValueError, match="JUDGE_KEY holds no key") as caught:
        Judge("http://localhost/v1", "referee", api_key_env="JUDGE_KEY")
    assert not value or value not in str(caught.value)


def test_no_password_of_netrc_is_sent(server: JudgeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    judge(server).ask("Is it?")
    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host/v1", "http:///v1", "http://me:pw@host/v1", "http://host/v1?key=1"]
)
def test_a_url_that_cannot_work_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url: ") as caught:
        Judge(url, "referee")
    assert "pw" not in str(caught.value).replace("password", "")


# --- the cache


def test_the_same_request_is_sent_once_also_by_another_process(server: JudgeServer, tmp_path: Path) -> None:
    server.steps = [says("first"), says("second"), says("third"), says("fourth")]
    assert judge(server, cache=tmp_path).ask("Is it?") == "first"
    assert judge(server, cache=tmp_path).ask("Is it?") == "first"
    assert judge(server, cache=tmp_path).ask("Is it not?") == "second"
    assert judge(server, cache=tmp_path, temperature=0).ask("Is it?") == "third"
    assert Judge(server.url, "other", cache=tmp_path).ask("Is it?") == "fourth"
    assert len(server.requests) == 4
    assert taken_counts()["judge/cache_hits"] == 1


def test_failures_are_not_remembered(server: JudgeServer, tmp_path: Path) -> None:
    server.steps = [status(400)]
    asking = judge(server, cache=tmp_path)
    with pytest.raises(JudgeError):
        asking.ask("Is it?")
    assert asking.ask("Is it?") == "yes"


@pytest.mark.parametrize("content", [b"", b'{"key": ', b"\xff", b"[]", b'{"key": "another", "text": "no"}'])
def test_a_broken_file_of_the_cache_is_replaced(server: JudgeServer, tmp_path: Path, content: bytes) -> None:
    asking = judge(server, cache=tmp_path)
    asking.ask("Is it?")
    (file,) = tmp_path.glob("??/*.json")
    good = file.read_bytes()
    file.write_bytes(content)
    assert asking.ask("Is it?") == "yes"
    assert len(server.requests) == 2
    assert file.read_bytes() == good


def test_a_cache_that_is_full_costs_no_answer(server: JudgeServer, tmp_path: Path, monkeypatch, caplog) -> None:
    def no_space(*paths: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(judge_cache.os, "replace", no_space)
    asking = judge(server, cache=tmp_path)
    assert [asking.ask("Is it?"), asking.ask("Is it?")] == ["yes", "yes"]
    assert [record.getMessage().count("No space left") for record in caplog.records] == [1]
    assert list(tmp_path.glob("*/*")) == []


def test_a_cache_that_cannot_be_read_is_an_error(server: JudgeServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        judge(server, cache=tmp_path / "file").ask("Is it?")


def test_the_oldest_answers_are_deleted(tmp_path: Path) -> None:
    cache = judge_cache.AnswerCache(tmp_path, max_entries=3 * 256)
    keys = [f"ab{number:062x}" for number in range(5)]
    for age, key in enumerate(keys):
        cache.put(key, f"text {age}")
        os.utime(tmp_path / "ab" / f"{key}.json", (1000 + age, 1000 + age))
    cache.put("cd" + "0" * 62, "another folder")
    assert [cache.get(key) for key in keys] == [None, None, "text 2", "text 3", "text 4"]
    assert cache.get("cd" + "0" * 62) == "another folder"


def test_threads_that_write_the_same_answer_never_read_half_of_one(tmp_path: Path) -> None:
    key, texts = "ef" + "0" * 62, {letter * 50_000 for letter in "abcd"}

    def write_and_read(text: str) -> set[str | None]:
        cache = judge_cache.AnswerCache(tmp_path, max_entries=1000)
        return {(cache.put(key, text), cache.get(key))[1] for _ in range(50)}

    with ThreadPoolExecutor(4) as threads:
        found = set().union(*threads.map(write_and_read, texts))
    assert found <= texts


# --- images and threads


def sent_images(server: JudgeServer) -> list[Image.Image]:
    *images, text = server.requests[-1][2]["messages"][0]["content"]
    assert text == {"type": "text", "text": "Is it?"}
    urls = [part["image_url"]["url"] for part in images]
    assert all(part["type"] == "image_url" for part in images)
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def test_images_are_sent_small_and_in_order(server: JudgeServer, tmp_path: Path) -> None:
    Image.new("RGB", (60, 20), (200, 0, 0)).save(tmp_path / "red.png")
    images = [Image.new("L", (300, 100), 128), ImageRef(str(tmp_path / "red.png"), (60, 20)), Image.new("RGB", (1, 99))]
    judge(server, max_image_pixels=300).ask("Is it?", images)
    grey, red, thin = sent_images(server)
    assert [image.size for image in (grey, red, thin)] == [(30, 10), (30, 10), (1, 99)]
    assert [image.mode for image in (grey, red, thin)] == ["RGB"] * 3
    found = red.getpixel((15, 5))
    assert isinstance(found, tuple)
    assert max(abs(value - wanted) for value, wanted in zip(found, (200, 0, 0), strict=True)) < 8


def test_the_same_question_about_another_image_is_another_request(server: JudgeServer, tmp_path: Path) -> None:
    asking = judge(server, cache=tmp_path)
    for color in ("red", "red", "blue"):
        asking.ask("Is it?", [Image.new("RGB", (9, 9), color)])
    assert len(server.requests) == 2


def test_threads_share_a_judge(server: JudgeServer) -> None:
    asking = judge(server)
    server.steps = [says(str(number)) for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(asking.ask, ["Is it?"] * 40))
    assert sorted(map(int, answers)) == list(range(40))
    assert taken_counts()["judge/requests"] == 40
