"""What a judge's client does before it has a response: urls, proxies, secrets and slow headers."""

from __future__ import annotations

import base64

import pytest

from mars.rewards import judge as judge_module
from mars.rewards.call_facts import taken_counts
from mars.rewards.judge import Judge, JudgeError
from mars.rewards.judge_access import without_secrets
from mars.rewards.local import describe_error
from tests.unit.rewards.judge_server import Step, body, drip_headers, judge_server, sends, status

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No proxies, a key, and waits between tries that take no time and are listed."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    waits: list[float] = []
    monkeypatch.setattr(judge_module, "_wait", waits.append)
    taken_counts()
    return waits


@pytest.mark.parametrize(
    "url",
    [
        "http://host:99999/v1",
        "http://host:0/v1",
        "http://127.0.0.1:abc/v1",
        "http://exa mple/v1",
        "http://*.x/v1",
        "http://[::1/v1",
        "http://me:p/w@host/v1",
    ],
)
def test_a_url_that_no_request_can_go_to_is_refused_without_its_text(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url: ") as caught:
        Judge(url, "referee")
    assert url.removeprefix("http://") not in describe_error(caught.value).traceback


@pytest.mark.parametrize(
    "url", ["http://host/v1", "https://judge_1:8000/v1/", "http://[::1]:80/v1", "http://10.0.0.1:1"]
)
def test_other_urls_are_taken(url: str) -> None:
    assert f"{url.rstrip('/')}/chat/completions" in repr(Judge(url, "referee"))


@pytest.mark.parametrize(
    "step",
    [
        sends(f"Bearer {KEY} is bad\r\n\r\n".encode()),
        status(401, KEY.encode()),
        status(500, KEY.encode()),
        body(KEY.encode()),
        body(f'["{KEY}"]'.encode()),
        sends(f"HTTP/1.1 200 OK\r\nContent-Length: 10, 11\r\nX: {KEY}\r\n\r\n{{}}".encode()),
    ],
)
def test_the_key_is_neither_in_the_reason_nor_in_the_logged_traceback(step: Step) -> None:
    with judge_server() as server:
        server.steps = [step]
        with pytest.raises(JudgeError) as caught:
            Judge(server.url, "referee", api_key_env="JUDGE_KEY", max_tries=1).ask("Is it?")
    logged = describe_error(caught.value)
    assert KEY not in f"{logged.result.failed} {logged.traceback}"


@pytest.mark.parametrize("password", ["s3cret#x", "pa/s3cret", "s3cret?", "[s3cret"])
def test_a_proxy_that_cannot_be_parsed_fails_at_once_without_its_password(
    monkeypatch: pytest.MonkeyPatch, environment: list[float], password: str
) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:{password}@proxy:3128")
    with pytest.raises(
        JudgeError, match="a proxy of the environment or a header of the response is not valid"
    ) as caught:
        Judge("http://judge.invalid:8000/v1", "referee").ask("Is it?")
    logged = describe_error(caught.value)
    assert "s3cret" not in f"{logged.result.failed} {logged.traceback}"
    assert environment == []
    assert taken_counts()["judge/failures"] == 1


def test_passwords_of_proxies_are_masked_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:s3%40cret/99@proxy:3128")
    basic = base64.b64encode(b"user:s3@cret/99").decode()
    text = f"user:s3%40cret/99 {basic} port=99 s3@cret {KEY} proxy"
    assert without_secrets(text, KEY) == "*** *** port=*** *** *** proxy"
    monkeypatch.setenv("https_proxy", "http://user:s3cret@home/99@proxy:3128")
    assert without_secrets("host=home, port=99, s3cret", None) == "host=***, port=***, ***"
    monkeypatch.delenv("https_proxy")
    assert without_secrets("port=99", None) == "port=99"


def test_certificates_that_are_missing_are_an_error_of_the_judge(
    monkeypatch: pytest.MonkeyPatch, environment: list[float]
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(JudgeError, match=r"/nowhere/ca\.pem"):
        Judge("https://127.0.0.1:1/v1", "referee").ask("Is it?")
    assert environment == []
    assert taken_counts()["judge/failures"] == 1


def test_headers_that_arrive_a_byte_at_a_time_end_with_the_deadline() -> None:
    with judge_server() as server:
        server.steps = [drip_headers] * 9
        with pytest.raises(JudgeError, match=r"after 1 tries in at most 0\.3 s; the last: ReadTimeout"):
            Judge(server.url, "referee", deadline_s=0.3, max_tries=9).ask("Is it?")
        assert Judge(server.url, "referee").ask("Is it?") == "yes"
