"""sys.stdout and sys.stderr without control characters. mars/output/console.py is rich's console over them."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from mars.output.text import visible

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Not escaped in the output of libraries, because progress bars return to the start of the line.
KEEP = "\n\t\r"


class _Outliving(io.FileIO):
    """A copy of a file descriptor, to write to. When nobody can read the output any more, it turns to /dev/null.

    So the process can go on. The original is then turned to /dev/null too, for processes that are started later, unless
    it was redirected since the copy was made.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(os.dup(fd), "wb")
        self._original = fd

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self._has_lost_reader(error):
                raise
        null = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError):  # the original was closed
            if os.path.sameopenfile(self.fileno(), self._original):
                os.dup2(null, self._original)
        os.dup2(null, self.fileno())
        os.close(null)
        return super().write(data)

    def _has_lost_reader(self, error: OSError) -> bool:
        """Whether the error means a pipe whose reader has ended (`| head`), or a closed terminal.

        A closed terminal gives EIO. On a disk, EIO is a failure that must be raised.
        """
        is_device = stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        return error.errno == errno.EPIPE or (error.errno == errno.EIO and is_device)


class VisibleStream(io.TextIOWrapper):
    """A text stream to a file descriptor that escapes control and invisible characters.

    Characters that the encoding lacks are escaped too. It writes to a copy of the descriptor, because the original may
    be redirected. Text that is written after a pipe's reader has ended is dropped without an error.
    """

    def __init__(self, fd: int, encoding: str, *, line_buffering: bool) -> None:
        raw = io.BufferedWriter(_Outliving(fd))
        super().__init__(raw, encoding, "backslashreplace", line_buffering=line_buffering, newline="\n")

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):  # click tells text streams from binary ones by this error
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        super().write(visible(text, KEEP))
        return len(text)

    def write_as_it_is(self, text: str) -> int:
        return super().write(text)


@contextmanager
def escaped_output(line_by_line: bool = False) -> Iterator[None]:
    """During the block, sys.stdout and sys.stderr escape control and invisible characters (`VisibleStream`).

    A stream without a file descriptor is not changed.

    line_by_line: write each line at once, even to a file, for a process that may be killed at any time.
    """
    before = sys.stdout, sys.stderr
    try:
        sys.stdout, sys.stderr = (_escaping(stream, line_by_line) for stream in before)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _escaping(stream: TextIO, line_by_line: bool) -> TextIO:
    try:
        fd = stream.fileno()
    except (AttributeError, OSError):  # closed (None), or in memory
        return stream
    stream.flush()
    unbuffered = isinstance(stream, io.TextIOWrapper) and stream.write_through  # python -u
    return VisibleStream(fd, stream.encoding, line_buffering=line_by_line or bool(stream.line_buffering) or unbuffered)
