"""How Ray workers read images: from files of their node, or from the node's store of sent images (`data.transport`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from mars import interrupts
from mars.cluster.image_shipping import FIRST_CONTENTS, READER_THREADS, ImageReader, Shipped, start_on, this_node
from mars.cluster.ray_errors import one_line
from mars.config.run_sections import ClusterConfig
from mars.config.schema import RowsConfig
from mars.data.pixels.images import decode_image
from mars.data.pixels.mounted import IMAGE_ROOT_VARIABLE, MountedRoot
from mars.data.pixels.stored import BadImage, Place, ReadImage, stored_image
from mars.errors import WorkerError
from mars.train_types import TrainBatch
from mars.types import ImageRef

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

_PER_CALL = 32  # images
_TRIES = 3
_CLOSE_TIMEOUT_S = 5.0
_METRICS_TIMEOUT_S = 10.0


class ImageAccess:
    """How the workers of a run read images. Pickled, and opened in each worker.

    root: data.image_root as the driver has resolved it; None if it is null. reader: the run's `ImageReader`; None with
    data.transport=path. names_node: whether messages about images name the node. timeout_s: deadline of a call to the
    node's store.
    """

    def __init__(self, root: str | None, reader: Any, names_node: bool, timeout_s: float) -> None:
        self._root, self._reader, self._names_node, self._timeout_s = root, reader, names_node, timeout_s
        self._before, self._has_warned = Shipped(), False

    def open(self) -> WorkerImages:
        """Called in the worker."""
        if self._reader is not None:
            return WorkerImages(_NodeStore(self._reader, self._timeout_s), self._names_node)
        here = os.environ.get(IMAGE_ROOT_VARIABLE)
        if here and self._root is None:
            logger.warning("%s=%s has no effect: data.image_root is null", IMAGE_ROOT_VARIABLE, here)
        return WorkerImages(_NodeFiles(self._root, here), self._names_node)

    def metrics(self) -> dict[str, float]:
        """On the driver: how many images and bytes were sent to nodes, and how often a node had the image already.

        All since the last call that the reader answered. {} with data.transport=path, and if the reader does not answer
        within 10 s.
        """
        if self._reader is None:
            return {}
        try:
            now: Shipped = ray.get(self._reader.shipped.remote(), timeout=_METRICS_TIMEOUT_S)
        except RayError as error:
            if not self._has_warned:
                logger.warning(
                    "images: no perf/image_* metrics while image-reader does not answer: %s", one_line(error)
                )
            self._has_warned = True
            return {}
        before, self._before = (self._before if now.start == self._before.start else Shipped()), now
        contents = now.contents - before.contents
        return {
            "perf/image_bytes_shipped": float(now.num_bytes - before.num_bytes),
            "perf/images_shipped": float(contents),
            "perf/image_cache_hits": float(now.asked - before.asked - contents),
        }


class _Source(Protocol):
    """A `ReadImage`. where: the node whose files it reads, for messages."""

    def __call__(self, place: Place) -> str | bytes: ...
    def where(self) -> str: ...
    def expect(self, places: Sequence[Place], ahead: bool) -> None: ...


class WorkerImages:
    """Decodes the images that a worker needs. names_node: whether messages about images name the node."""

    def __init__(self, source: _Source, names_node: bool) -> None:
        self._source, self._names_node = source, names_node

    def decode(self, ref: ImageRef) -> Image.Image:
        """As `decode_image`."""
        try:
            return decode_image(ref, self._source)
        except BadImage as error:
            if not self._names_node:
                raise
            raise BadImage(error.reason, f"{error}; on node {self._source.where()}") from error

    def expect(self, images: Iterable[ImageRef], ahead: bool = False) -> None:
        """Ask for the images that the worker reads next; `decode` waits for them. ahead: they are for a later call of
        the worker."""
        self._source.expect(list(dict.fromkeys(map(Place.of, images))), ahead)

    def expect_of_rank(self, batch: TrainBatch, rank: int) -> None:
        """Ask for the images of the prompts in a rank's micro-batches, in the order of its forwards."""
        micros = (micro for update in batch.updates for micro in update.ranks[rank])
        prompts = dict.fromkeys(prompt for micro in micros for prompt, _ in micro.rows)
        self.expect(image for prompt in prompts for image in batch.prompts[prompt].images)


class _NodeFiles:
    """The files of this node.

    root: data.image_root on the driver's node. here: this folder's path on this node; None if it is the same.
    """

    def __init__(self, root: str | None, here: str | None) -> None:
        self._read: ReadImage = MountedRoot(root, here) if here and root is not None else stored_image

    def __call__(self, place: Place) -> str | bytes:
        return self._read(place)

    def where(self) -> str:
        return this_node()

    def expect(self, places: Sequence[Place], ahead: bool) -> None:
        """Does nothing: files are read when they are needed."""


class _NodeStore:
    """The `ImageStore` of this node, which gets images from the run's `ImageReader`.

    Another thread may read images during `expect`.
    """

    def __init__(self, reader: Any, timeout_s: float) -> None:
        self._reader, self._timeout_s = reader, timeout_s
        self._store: Any = None
        self._starting = self._start()  # while the worker loads its model
        # What the last call of `expect` asked for, and what the call before it did: its images may still be read.
        self._asked: tuple[_Asked, _Asked] = ({}, {})

    def __call__(self, place: Place) -> bytes:
        """Raises BadImage, and WorkerError if the store does not answer."""
        for attempt in range(_TRIES):
            try:
                return self._content(place)
            except RayActorError as error:  # the reader died, and its stores with it; Ray starts it again
                logger.warning("images: %s", str(error).partition("\n")[0])
                self._store, self._asked, self._starting = None, ({}, {}), self._start()
                if attempt + 1 == _TRIES:
                    raise WorkerError(f"images: the store of node {this_node()} died {_TRIES} times") from error
        raise AssertionError("unreachable")

    def where(self) -> str:
        return self._get(self._reader.where.remote())

    def expect(self, places: Sequence[Place], ahead: bool) -> None:
        asked: _Asked = {}
        for first in range(0, len(places), _PER_CALL):
            some = places[first : first + _PER_CALL]
            digests = _Digests(self._connected().bring.remote(some, ahead))
            asked |= {place: (digests, i) for i, place in enumerate(some)}
        self._asked = asked, self._asked[0]

    def _connected(self) -> Any:
        if self._store is None:
            self._store = self._get(self._starting)
        return self._store

    def _start(self) -> Any:
        return self._reader.store.remote(ray.get_runtime_context().get_node_id())

    def _content(self, place: Place) -> bytes:
        now, before = self._asked
        answer = now.get(place) or before.get(place) or (_Digests(self._connected().bring.remote([place], False)), 0)
        digest = self._raised(answer[0].get(self._get)[answer[1]])
        return self._raised(self._get(self._connected().content.remote(place, digest)))

    def _raised(self, found: bytes | BadImage) -> bytes:
        if isinstance(found, BadImage):
            raise found
        return found

    def _get(self, reference: Any) -> Any:
        try:
            return ray.get(reference, timeout=self._timeout_s)
        except GetTimeoutError as error:
            raise WorkerError(
                f"images: no answer from the store of node {this_node()} within {self._timeout_s:g} s"
            ) from error


OWN_FILES = WorkerImages(_NodeFiles(None, None), names_node=False)
"""Reads the files of this node, under the paths that the driver has."""


class _Digests:
    """The answer of a store to `bring`, fetched once."""

    def __init__(self, reference: Any) -> None:
        self._reference, self._found = reference, None

    def get(self, get: Any) -> Sequence[bytes | BadImage]:
        if self._found is None:
            self._found = get(self._reference)
        return self._found


_Asked = dict[Place, tuple[_Digests, int]]
"""Images that were asked for: the answer in which each is, and its position there."""


@contextmanager
def image_access(
    data: RowsConfig, cluster: ClusterConfig, environment: Mapping[str, str], log_dir: Path
) -> Iterator[ImageAccess]:
    """Start what `data.transport` needs; stop it when the block ends.

    environment: variables set in worker processes in addition to those of their node.
    """
    root = None if data.image_root is None else os.path.realpath(data.image_root)
    names_node = cluster.address is not None  # otherwise all workers are on this machine
    reader = None
    record = log_dir / FIRST_CONTENTS
    if data.transport == "object_store":
        record.unlink(missing_ok=True)  # left by an earlier cluster with the same log folder
        here = ray.get_runtime_context().get_node_id()
        actor = start_on(here, ImageReader, environment, READER_THREADS)
        reader = actor.remote("image-reader", str(log_dir), data.image_cache_bytes, environment)
    try:
        yield ImageAccess(root, reader, names_node, cluster.call_timeout_s)
    finally:
        if reader is not None and interrupts.reason() is None:
            try:
                ray.get(reader.close.remote(), timeout=_CLOSE_TIMEOUT_S)
            except RayError as error:
                logger.debug("the reader of images did not close: %s", error)
            ray.kill(reader)
            record.unlink(missing_ok=True)
