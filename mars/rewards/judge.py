"""A client of chat endpoints in OpenAI's style, for reward functions that ask a language model (docs/rewards.md).

judge = Judge("http://judge:8000/v1", "Qwen/Qwen2.5-32B-Instruct", temperature=0, max_tokens=8)    # once, in the file
verdict = judge.ask("Does the reasoning lead to the answer? Yes or no?\\n\\n" + item.response)      # in the function
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import requests
from PIL import Image
from urllib3.exceptions import HTTPError

from mars.data.pixels.images import decode_image
from mars.errors import ConfigError
from mars.rewards.call_facts import count, seconds_left
from mars.rewards.judge_access import endpoint, key_of, without_secrets
from mars.rewards.judge_cache import AnswerCache
from mars.rewards.judge_deadline import headers_until, new_session
from mars.types import ImageRef

_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_MAX_RESPONSE_BYTES = 2**22
_wait = time.sleep
_MAX_QUOTED = 200
# The share of a reward function's remaining time that a question may take. The rest is for the function's own work, and
# for the message that there is no answer.
_SHARE_OF_DEADLINE = 0.9


class JudgeError(Exception):
    """The judge gave no answer. Raised out of a reward function, it makes the sample fail, which masks it."""


class _Unavailable(Exception):
    """A failure that the next try may not have. wait_s: seconds that the service asked to wait before the next try."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Judge:
    """Asks one model of one service. One object may be used by several threads.

    url: up to "/v1"; requests go to <url>/chat/completions. Proxies are taken from the usual environment variables.
    model: its name at the service.
    api_key_env: environment variable that holds the key; None: no key is sent. No error message has the key or a
        password of a proxy.
    timeout_s: longest time for connecting, and for each wait for data. A request whose data arrive slowly may take
        longer, until the deadline of the question.
    deadline_s: longest time of a question, including retries and waits. In a reward function, a question gets at most
        90 % of the time that the function has left (`reward.timeout_s`). The deadline cannot interrupt the look-up of a
        host's name or connecting through a proxy.
    max_tries: most requests for one question. A request is repeated after status 408, 429 and 5xx, a refused or broken
        connection, a timeout, and a response that is not JSON. Everything else is an error at once. Before each
        repetition it waits 0.5, 1, 2 ... seconds (at most 30), times a random number of 0.5 to 1; longer if Retry-After
        says so.
    cache: folder for answers. A request that was answered once, with this model, text, images and fields, is not
        sent again. None: off. The url does not count, because it may change with each job: use one folder for each
        judge, and a new folder for new weights under the same name.
    max_cache_entries: about how many answers the cache keeps, the newest. Each of its 256 subfolders keeps
        max_cache_entries // 256, at least one: so give thousands.
    max_image_pixels: larger images are scaled down. All images are sent as JPEG in data URLs.
    fields: further fields of each request, such as temperature=0, max_tokens=16, seed=0.

    Raises ValueError for a url, a key or a number that cannot work.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        timeout_s: float = 30.0,
        deadline_s: float = 120.0,
        max_tries: int = 6,
        cache: str | Path | None = None,
        max_cache_entries: int = 100_000,
        max_image_pixels: int = 1_000_000,
        **fields: Any,
    ) -> None:
        self._endpoint = endpoint(url)
        if not (
            timeout_s > 0 and deadline_s > 0 and max_tries >= 1 and max_cache_entries >= 1 and max_image_pixels >= 1
        ):
            raise ValueError("timeout_s, deadline_s, max_tries, max_cache_entries, max_image_pixels: want more than 0")
        self._model = model
        self._key = None if api_key_env is None else key_of(api_key_env)
        self._timeout_s, self._deadline_s, self._max_tries = timeout_s, deadline_s, max_tries
        self._cache = (
            None if cache is None else AnswerCache(Path(os.path.expanduser(cache)).absolute(), max_cache_entries)
        )
        self._max_image_pixels = max_image_pixels
        self._fields = fields
        self._thread = threading.local()

    def __repr__(self) -> str:
        return f"Judge({self._endpoint!r}, {self._model!r})"

    def ask(self, question: str, images: Sequence[ImageRef | Image.Image] = (), **fields: Any) -> str:
        """The answer of the model. images: put before the question; for example `item.images`.
        fields: fields of this request alone; they replace fields of the same name that the judge was made with.

        Raises JudgeError if there is no answer, DataError for an image that cannot be read.
        """
        content = [
            *(_image_part(image, self._max_image_pixels) for image in images),
            {"type": "text", "text": question},
        ]
        return self.chat([{"role": "user", "content": content if images else question}], **fields)

    def chat(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> str:
        """As `ask`, with messages as the endpoint takes them."""
        request = {"model": self._model, "messages": list(messages), **self._fields, **fields}
        body = json.dumps(request, sort_keys=True).encode()
        key = hashlib.sha256(body).hexdigest()
        known = None if self._cache is None else self._cache.get(key)
        if known is not None:
            count("judge/cache_hits")
            return known
        begun = time.monotonic()
        try:
            text = self._answer(body)
        except JudgeError:
            count("judge/failures")
            raise
        finally:
            count("judge/seconds", time.monotonic() - begun)
        if self._cache is not None:
            self._cache.put(key, text)
        return text

    def _answer(self, body: bytes) -> str:
        left = seconds_left()
        budget = self._deadline_s if left is None else min(self._deadline_s, _SHARE_OF_DEADLINE * left)
        deadline = time.monotonic() + budget
        for tries in range(1, self._max_tries + 1):
            try:
                return self._request(body, deadline)
            except _Unavailable as error:
                wait = min(_FIRST_WAIT_S * 2 ** (tries - 1), _LONGEST_WAIT_S) * random.uniform(0.5, 1)
                wait = max(wait, error.wait_s)
                if tries == self._max_tries or time.monotonic() + wait >= deadline:
                    reason = f"no answer after {tries} tries in at most {round(budget, 1):g} s; the last: {error}"
                    raise JudgeError(f"{self._endpoint}: {reason}") from error
            count("judge/retries")
            _wait(wait)
        raise AssertionError("the last try returns or raises")

    def _request(self, body: bytes, deadline: float) -> str:
        """Raises _Unavailable or JudgeError."""
        count("judge/requests")
        options = {"auth": self._authorize, "allow_redirects": False, "stream": True}
        options["timeout"] = max(min(self._timeout_s, deadline - time.monotonic()), 0.001)
        try:
            with headers_until(deadline):
                response = self._session().post(self._endpoint, body, headers=_HEADERS, **options)
            with response:
                content = _read(response, deadline)
        except (OSError, HTTPError, ValueError) as error:  # exceptions of requests are OSErrors
            raise self._failure(error) from None  # a logged traceback would show the text of `error`
        status = response.status_code
        if status in (408, 429) or status >= 500:
            reason = f"HTTP status {status}: {self._quoted(content.decode(errors='replace'))}"
            raise _Unavailable(reason, _retry_after(response.headers.get("Retry-After")))
        if status != 200:
            raise JudgeError(
                f"{self._endpoint}: HTTP status {status}: {self._quoted(content.decode(errors='replace'))}"
            )
        return self._text(content)

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, ValueError):  # InvalidURL, InvalidProxyURL, ...: their texts may quote a proxy's password
            kind = type(error).__name__
            wrong = "the url, a proxy of the environment or a header of the response is not valid"
            return JudgeError(f"{self._endpoint}: {kind}: {wrong}")
        may_pass = isinstance(
            error, requests.RequestException | HTTPError
        )  # other OSErrors do not pass, such as a missing file of REQUESTS_CA_BUNDLE
        if isinstance(error, requests.exceptions.SSLError) or not may_pass:
            return JudgeError(f"{self._endpoint}: {self._quoted(str(error))}")
        return _Unavailable(self._quoted(_cause(error)))

    def _text(self, content: bytes) -> str:
        try:
            found = json.loads(content)
        except ValueError as error:
            raise _Unavailable(f"the response is not JSON: {self._quoted(content.decode(errors='replace'))}") from error
        try:
            text = found["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise JudgeError(f"{self._endpoint}: no text in the response: {self._quoted(json.dumps(found))}")
        return text

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """The `auth` of each request, even without a key: otherwise the library would send a password of ~/.netrc."""
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _session(self) -> requests.Session:
        """A session for each thread, because the library `requests` does not say that threads can share one."""
        if not hasattr(self._thread, "session"):
            self._thread.session = new_session()
        return self._thread.session

    def _quoted(self, text: str) -> str:
        """The beginning of a text, without secrets: what the service or an exception says may repeat the key."""
        return without_secrets(text, self._key)[:_MAX_QUOTED]


def judge_of_environment(**fields: Any) -> Judge:
    """The judge that the environment names: JUDGE_URL, up to "/v1", and JUDGE_MODEL. fields: as for `Judge`.

    Raises ConfigError if one of them is not set.
    """
    url, model = os.environ.get("JUDGE_URL"), os.environ.get("JUDGE_MODEL")
    if not url or not model:
        raise ConfigError(
            "JUDGE_URL, JUDGE_MODEL: not set in the environment; give the judge's url, up to /v1, and model"
        )
    return Judge(url, model, **fields)


def _cause(error: Exception) -> str:
    """The reason inside an exception of the library requests, whose own text only says "Max retries exceeded"."""
    found = error.args[0] if error.args else error
    return f"{type(error).__name__}: {getattr(found, 'reason', None) or found}"


def _read(response: requests.Response, deadline: float) -> bytes:
    """Raises an exception of requests or urllib3 for a broken or slow connection, JudgeError for a long response."""
    content = b""
    while chunk := response.raw.read1(2**16):  # what has arrived, so that the deadline is seen between two arrivals
        content += chunk
        if time.monotonic() > deadline:
            raise requests.Timeout("the response was not complete in time")
        if len(content) > _MAX_RESPONSE_BYTES:
            raise JudgeError(f"{response.url}: the response has more than {_MAX_RESPONSE_BYTES} bytes")
    return content


def _retry_after(value: str | None) -> float:
    """Seconds to wait, from the header's number or date; 0 if there is no header or if it is not valid."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
        return seconds if 0 < seconds < math.inf else 0.0
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)


def _image_part(image: ImageRef | Image.Image, max_pixels: int) -> dict[str, Any]:
    rgb = (decode_image(image) if isinstance(image, ImageRef) else image).convert("RGB")
    scale = (max_pixels / (rgb.width * rgb.height)) ** 0.5
    if scale < 1:
        rgb = rgb.resize((max(int(rgb.width * scale), 1), max(int(rgb.height * scale), 1)), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    rgb.save(file, "JPEG", quality=90)
    url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
