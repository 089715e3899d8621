"""rich's console, made safe for texts of models, data sets, users' files and file names. No other
console of rich is used."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from mars.output.terminal import KEEP, VisibleStream
from mars.output.text import visible


class _Unescaped:
    """Where a `VisibleConsole` writes: sys.stdout or sys.stderr, without the escaping of a `VisibleStream`.

    The console has already escaped the texts, and its own colours and cursor movements must not be escaped.
    """

    def __init__(self, *, stderr: bool) -> None:
        self._stderr = stderr

    @property
    def rich_proxied_file(self) -> _Unescaped:
        """This object. rich asks the object that it writes to for an attribute of this name, and then writes to the
        attribute's value. If the value were another stream, rich would not call this object's `write`."""
        return self

    def _stream(self) -> TextIO:
        stream = sys.stderr if self._stderr else sys.stdout
        return getattr(stream, "rich_proxied_file", stream)

    def write(self, text: str) -> int:
        stream = self._stream()
        return stream.write_as_it_is(text) if isinstance(stream, VisibleStream) else stream.write(text)

    def __getattr__(self, name: str):
        return getattr(self._stream(), name)


class VisibleConsole(Console):
    """rich's console for tables, colours and progress bars.

    rich removes some control characters of texts and keeps others. This console escapes those that rich keeps, in every
    text, but after rich has chosen the widths of columns and the line breaks: escapes may be cut at the line's end.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None, highlight: bool = True) -> None:
        super().__init__(file=_Unescaped(stderr=stderr), width=width, highlight=highlight)  # type: ignore[arg-type]

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text, KEEP), segment.style)
