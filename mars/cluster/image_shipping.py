"""`data.transport=object_store`: one reader of images on the driver's node, and one store of images on each node.

    ImageReader (driver's node) ── encoded bytes, once per node and content ──> ImageStore (each node) ──> its workers

A message holds up to 8 MiB, or one larger image. A store waits for up to three messages at once (for more only if
images that its cache has dropped are needed again). It keeps what it gets on disk, so images do not stay in Ray's
object store.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mars import faults
from mars.cluster.worker import Worker
from mars.data.pixels.contents import ContentCache, FirstContents, changed
from mars.data.pixels.stored import BadImage, Place

logger = logging.getLogger(__name__)

READER_THREADS = 8
FIRST_CONTENTS = "images_read.txt"
"""File in the folder of the logs: what the reader has read, for the one that takes its place if it dies."""
_MESSAGE_BYTES = 2**23
# Messages to one store at the same time: for images that a worker waits for, and for images sent ahead.
_MESSAGES, _MESSAGES_AHEAD = 2, 1


@dataclass(frozen=True)
class Shipped:
    """What a reader has done since it was started.

    start: differs between readers. A reader that takes the place of another counts from 0.
    asked: images that workers have asked for; an image counts again in each call that asks for it. contents: images
    that were sent to a node because the node did not have them. num_bytes: encoded bytes of the sent images.
    """

    asked: int = 0
    contents: int = 0
    num_bytes: int = 0
    start: str = ""


class ImageReader(Worker):
    """Reads the images of a run, on the driver's node.

    Starts an `ImageStore` for each node, when a worker there first asks. cache_bytes: of each store's cache.
    environment: variables of the stores' processes.
    """

    threads: ClassVar[dict[str, int]] = {"no_reading": 2}  # for calls that must not wait for others that read files

    def __init__(self, name: str, log_dir: str, cache_bytes: int, environment: Mapping[str, str]) -> None:
        super().__init__(name, log_dir)
        gc.enable()
        self._log_dir, self._cache_bytes, self._environment = log_dir, cache_bytes, environment
        self._images = FirstContents(record=Path(log_dir) / FIRST_CONTENTS)
        self._stores: dict[str, Any] = {}
        self._lock = Lock()
        self._shipped = Shipped(start=os.urandom(8).hex())

    @ray.method(concurrency_group="no_reading")
    def where(self) -> str:
        return this_node()

    def digests(self, places: Sequence[Place]) -> list[bytes | BadImage]:
        """The SHA-256 of each image, or why it cannot be read."""
        faults.point("images.asked")
        found = _each(self._images.digest, places)
        with self._lock:
            counts = self._shipped
            self._shipped = replace(counts, asked=counts.asked + len(places))
        return found

    def contents(self, places: Sequence[Place]) -> list[bytes | BadImage]:
        """The encoded bytes of the first images: as many as fit into a message, but at least one."""
        found: list[bytes | BadImage] = []
        num_bytes = 0
        for place in places:
            (content,) = _each(self._images.content, [place])
            size = len(content) if isinstance(content, bytes) else 0
            if found and num_bytes + size > _MESSAGE_BYTES:
                break
            found.append(content)
            num_bytes += size
        with self._lock:
            counts, number = self._shipped, sum(isinstance(content, bytes) for content in found)
            self._shipped = replace(counts, contents=counts.contents + number, num_bytes=counts.num_bytes + num_bytes)
        return found

    @ray.method(concurrency_group="no_reading")
    def store(self, node: str) -> Any:
        """The store on a node, given by Ray's id."""
        with self._lock:
            if node not in self._stores:
                self._stores[node] = start_on(node, ImageStore, self._environment, max_concurrency=1000).remote(
                    f"images-{node[:8]}", self._log_dir, ray.get_runtime_context().current_actor, self._cache_bytes
                )
            return self._stores[node]

    @ray.method(concurrency_group="no_reading")
    def shipped(self) -> Shipped:
        return self._shipped

    @ray.method(concurrency_group="no_reading")
    def close(self) -> None:
        counts = self._shipped
        logger.info(
            "images sent: %d (%d bytes), to nodes: %d; asked for: %d",
            counts.contents, counts.num_bytes, len(self._stores), counts.asked,
        )  # fmt: skip
        for store in self._stores.values():
            ray.kill(store)


class ImageStore(Worker):
    """The images that one node has, for all workers there. Its calls run concurrently in one thread (asyncio)."""

    threads: ClassVar[dict[str, int]] = {}

    def __init__(self, name: str, log_dir: str, reader: Any, cache_bytes: int) -> None:
        super().__init__(name, log_dir)
        gc.enable()
        self._reader, self._cache = reader, ContentCache(cache_bytes)
        self._slots = {False: asyncio.Semaphore(_MESSAGES), True: asyncio.Semaphore(_MESSAGES_AHEAD)}
        self._coming: dict[bytes, asyncio.Task[None]] = {}
        self._is_full = False

    async def bring(self, places: Sequence[Place], ahead: bool) -> list[bytes | BadImage]:
        """Get those images of `places` that this node lacks. Returns each image's SHA-256, or why it cannot be read.

        ahead: whether the images are for later.
        """
        faults.point("images.bring")
        async with self._slots[ahead]:
            found = await self._reader.digests.remote(places)
            wanted = {digest: place for digest, place in zip(found, places, strict=True) if isinstance(digest, bytes)}
            fresh = {d: place for d, place in wanted.items() if d not in self._cache and d not in self._coming}
            if fresh:
                task = asyncio.create_task(self._fetch(fresh))
                self._coming |= dict.fromkeys(fresh, task)
            await asyncio.gather(*{self._coming[digest] for digest in wanted if digest in self._coming})
        return found

    async def content(self, place: Place, digest: bytes) -> bytes | BadImage:
        """The encoded bytes of an image that `bring` has brought, or why it cannot be read."""
        content = self._cache.get(digest)
        if content is None:  # dropped since, to make room for others
            (content,) = await self._reader.contents.remote([place])
            if isinstance(content, bytes) and not self._keep(digest, content):
                return changed(place)
        return content

    async def _fetch(self, wanted: Mapping[bytes, Place]) -> None:
        left = list(wanted.items())
        try:
            while left:
                contents = await self._reader.contents.remote([place for _, place in left])
                for (digest, _), content in zip(left, contents, strict=False):
                    if isinstance(content, bytes):  # otherwise `content` says why not
                        self._keep(digest, content)
                left = left[len(contents) :]
        finally:
            for digest in wanted:
                del self._coming[digest]

    def _keep(self, digest: bytes, content: bytes) -> bool:
        """Keep `content` if `digest` is its digest and the disk has room. Returns whether `digest` is its digest."""
        try:
            self._cache.put(digest, content)
        except ValueError:
            return False
        except OSError as error:
            if not self._is_full:
                logger.warning("images are not kept on this node, so they are sent again for each use: %s", error)
            self._is_full = True
        return True


def _each(read: Any, places: Sequence[Place]) -> list[bytes | BadImage]:
    found: list[bytes | BadImage] = []
    for place in places:
        try:
            found.append(read(place))
        except BadImage as error:
            found.append(error)
    return found


def this_node() -> str:
    """The node's address and host name, for messages."""
    return f"{ray.util.get_node_ip_address()} ({socket.gethostname()})"


def start_on(
    node: str, worker_class: type[ImageReader | ImageStore], environment: Mapping[str, str], max_concurrency: int
) -> Any:
    """The remote class of an actor that will run on the Ray node with the id `node`.

    The actor takes no resources, and Ray restarts it if it dies.
    """
    return ray.remote(concurrency_groups=worker_class.threads)(worker_class).options(
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=max_concurrency,
        runtime_env={"env_vars": dict(environment)} if environment else None,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )
