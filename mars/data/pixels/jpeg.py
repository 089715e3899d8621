"""Decode JPEG files strictly. Pillow fills missing blocks with grey, because libjpeg only warns about them."""

from __future__ import annotations

import io
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from mars.data.pixels.bands import bands

if TYPE_CHECKING:
    from PIL import Image

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), (0xC2, 0xCA)
_END, _SCAN, _RESTARTS = 0xD9, 0xDA, 0xDD
_WITHOUT_LENGTH = (0x01, 0xD8)

# _ONES is 64 one bits. They are put behind a scan, because the decoder reads up to 64 bits ahead. No code is all ones,
# but the decoder takes 17 ones before it gives up on a code and goes on with the next one. Two missing blocks have at
# least four codes, and so take 68 bits. There are only 64, so the decoder fails.
_FEW_UNITS = 64
_ONES = b"\xff\x00" * 8
_NOISE = bytes(random.Random(0).choices(range(1, 255), k=4096))


@dataclass(frozen=True)
class _Frame:
    """kind: the second byte of its marker. factors: component -> its horizontal and vertical sampling factor."""

    kind: int
    width: int
    height: int
    factors: dict[int, tuple[int, int]]

    def num_units(self, components: Sequence[int]) -> int:
        """The number of minimum coded units (MCU) in a scan of these components; T.81, A.2."""
        widest, highest = (max(sides) for sides in zip(*self.factors.values(), strict=True))
        if len(components) > 1:
            return -(-self.width // (8 * widest)) * -(-self.height // (8 * highest))
        across, down = self.factors[components[0]]
        return -(-self.width * across // (8 * widest)) * -(-self.height * down // (8 * highest))


@dataclass(frozen=True)
class _Scan:
    """start: position of the scan's first byte of data in the file. end: position of the marker after its data.

    components: their ids. first, last: range of the coefficients of an 8x8 block in this scan. bit: the lowest bit of
    these coefficients in this scan; 0 is full precision. interval: units between two restart markers; 0 without them.
    """

    start: int
    end: int
    components: tuple[int, ...]
    first: int
    last: int
    bit: int
    interval: int


def load_jpeg(data: bytes) -> Image.Image:
    """Decode the (first) image of a JPEG file. Raises ValueError or OSError where pixels are missing.

    A sequential file of one scan with more than `_FEW_UNITS` units is decoded without its end marker. So the decoder
    fails for lack of data if more than the last one or two blocks are missing.

    Any other file, such as a progressive one, is decoded twice, once with noise after each scan. After a complete scan,
    the decoder skips the noise. After a truncated scan, it decodes the noise as the missing blocks. So
    the two results are equal only if every scan is complete.
    """
    frame, scans = _structure(data)
    for scan in scans:
        _check_restarts(data, frame, scan)
    is_single = len(scans) == 1 and set(scans[0].components) == set(frame.factors)
    if is_single and frame.kind in _SEQUENTIAL and frame.num_units(scans[0].components) > _FEW_UNITS:
        return _decoded(data[: scans[0].end] + _ONES)
    _check_complete(scans, frame)
    stops = [0, *(scan.end for scan in scans), len(data)]
    noisy = _digest(_decoded(_NOISE.join(data[start:stop] for start, stop in pairwise(stops))))
    image = _decoded(data)
    if _digest(image) != noisy:
        raise ValueError("a scan of the JPEG data ends before its last block")
    return image


def _digest(image: Image.Image) -> int:
    digest = 0
    for _, band in bands(image):
        digest = zlib.crc32(band.tobytes(), digest)
    return digest


def _decoded(data: bytes) -> Image.Image:
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    image.load()
    return image


def _structure(data: bytes) -> tuple[_Frame, list[_Scan]]:
    """The frame and its scans. Raises ValueError if the end marker, the frame or all scans are missing."""
    frame, scans, place, interval = None, [], 0, 0
    while True:
        found = _MARKER.search(data, place)
        if found is None:
            raise ValueError("the JPEG data has no end marker")
        kind, place = data[found.end() - 1], found.end()
        if kind == _END:
            break
        if kind in _WITHOUT_LENGTH:
            continue
        segment = data[place + 2 : place + int.from_bytes(data[place : place + 2], "big")]
        place += 2 + len(segment)
        if kind in _FRAMES:
            height, width = (int.from_bytes(segment[i : i + 2], "big") for i in (1, 3))
            factors = {name: divmod(sides, 16) for name, sides in zip(segment[6::3], segment[7::3], strict=False)}
            frame = _Frame(kind, width, height, factors)
        elif kind == _RESTARTS:
            interval = int.from_bytes(segment, "big")
        elif kind == _SCAN:
            following = _MARKER.search(data, place)
            scans.append(_scan(segment, place, len(data) if following is None else following.start(), interval))
    if frame is None or not scans or not {name for scan in scans for name in scan.components} <= set(frame.factors):
        raise ValueError("the JPEG file has no pixels")
    return frame, scans


def _scan(header: bytes, start: int, end: int, interval: int) -> _Scan:
    number = header[0] if header else 0
    if number == 0 or len(header) != 4 + 2 * number:
        raise ValueError("a scan of the JPEG file has a damaged header")
    first, last, bits = header[-3:]
    return _Scan(start, end, tuple(header[1 : 1 + 2 * number : 2]), first, last, bits & 15, interval)


def _check_restarts(data: bytes, frame: _Frame, scan: _Scan) -> None:
    """Raises ValueError unless all restart markers are there in order.

    If markers are missing, the decoder fills the gap without an error.
    """
    markers = b"".join(_RESTART.findall(data, scan.start, scan.end))
    expected = -(-frame.num_units(scan.components) // scan.interval) - 1 if scan.interval else 0
    if len(markers) < expected or any(marker != 0xD0 + i % 8 for i, marker in enumerate(markers)):
        raise ValueError("the JPEG data lacks a part between restart markers")


def _check_complete(scans: Sequence[_Scan], frame: _Frame) -> None:
    """Raises ValueError if a component has no scan, or a progressive file lacks the lowest bit of a coefficient."""
    for component in frame.factors:
        own = [scan for scan in scans if component in scan.components]
        held = {place for scan in own if scan.bit == 0 for place in range(scan.first, scan.last + 1)}
        if not own or (frame.kind in _PROGRESSIVE and not held.issuperset(range(64))):
            raise ValueError("the JPEG data ends before its last scan")
