"""The processes that send images to nodes: what a restart of one of them, or its silence, does to the others."""

from __future__ import annotations

import asyncio
import hashlib
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError

from mars.cluster import worker_images
from mars.cluster.image_shipping import ImageReader, ImageStore, Shipped
from mars.cluster.worker_images import ImageAccess
from mars.data.pixels.contents import ContentCache
from mars.data.pixels.stored import BadImage, Place

PLACE = Place("/data/a.png")
OLD, NEW = b"old", b"new!"
DIGEST = hashlib.sha256(OLD).digest()


def store_of(digest: bytes, content: bytes, tmp_path) -> ImageStore:
    """A store whose reader gives this hash and these bytes for any image."""

    def answering(answer):
        async def call(places):
            return [answer for _ in places]

        return SimpleNamespace(remote=call)

    store = object.__new__(ImageStore)
    store._reader = SimpleNamespace(digests=answering(digest), contents=answering(content))
    store._cache = ContentCache(2**20, str(tmp_path))
    store._slots = {False: asyncio.Semaphore(1), True: asyncio.Semaphore(1)}
    store._coming, store._is_full = {}, False
    return store


def test_an_image_that_changed_after_its_hash_was_read_is_a_bad_image(tmp_path):
    store = store_of(DIGEST, NEW, tmp_path)

    async def both():
        return await store.bring([PLACE], ahead=False), await store.content(PLACE, DIGEST)

    digests, content = asyncio.run(both())
    assert digests == [DIGEST]
    assert isinstance(content, BadImage)
    assert content.reason == "changed"
    assert str(content) == "/data/a.png: the image changed after the run had read it"
    assert store._coming == {}


def test_an_image_that_was_brought_is_given(tmp_path):
    store = store_of(DIGEST, OLD, tmp_path)

    async def both():
        return await store.bring([PLACE], ahead=False), await store.content(PLACE, DIGEST)

    assert asyncio.run(both()) == ([DIGEST], OLD)


def access_to(monkeypatch, answers) -> ImageAccess:
    """Its reader gives these answers, and raises those that are errors."""
    left = iter(answers)

    def get(reference, timeout):
        assert timeout < 60, "a step must not wait long for a metric"
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(worker_images.ray, "get", get)
    reader = SimpleNamespace(shipped=SimpleNamespace(remote=lambda: None))
    return ImageAccess(None, reader, names_node=True, timeout_s=3600.0)


def counts(metrics):
    names = ("images_shipped", "image_bytes_shipped", "image_cache_hits")
    return [metrics[f"perf/{name}"] for name in names]


@pytest.mark.parametrize("after", [Shipped(4, 2, 200, "b"), Shipped(40, 2, 200, "b")], ids=["fewer", "more"])
def test_a_reader_that_was_started_again_counts_from_zero(monkeypatch, after):
    access = access_to(monkeypatch, [Shipped(8, 3, 300, "a"), Shipped(10, 3, 300, "a"), after])
    assert [counts(access.metrics()) for _ in range(3)] == [[3, 300, 5], [0, 0, 2], [2, 200, after.asked - 2]]


def test_a_reader_that_does_not_answer_costs_metrics_alone(monkeypatch, caplog):
    silent = [GetTimeoutError("timed out"), ActorDiedError()]
    access = access_to(monkeypatch, [Shipped(8, 3, 300, "a"), *silent, Shipped(10, 4, 400, "a")])
    assert counts(access.metrics()) == [3, 300, 5]
    assert [access.metrics(), access.metrics()] == [{}, {}]
    assert len(caplog.records) == 1
    assert counts(access.metrics()) == [1, 100, 1], "with what was sent meanwhile"


def test_calls_that_read_nothing_do_not_wait_for_files():
    apart = {name for name in vars(ImageReader) if hasattr(getattr(ImageReader, name), "__ray_concurrency_group__")}
    assert apart == {"where", "store", "shipped", "close"}
    assert {getattr(ImageReader, name).__ray_concurrency_group__ for name in apart} == set(ImageReader.threads)
