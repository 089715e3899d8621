"""Shows a run until it has ended."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mars.output.text import visible
from mars.run_dir.outcome import last_word
from mars.watch.picture import Picture
from mars.watch.seen import RunReader, Seen

_PAUSE_S = 1.0


def show_once(reader: RunReader, console: Console) -> Seen:
    """Print one picture of the run."""
    seen = reader.look()
    _print(seen, console)
    return seen


def follow(reader: RunReader, console: Console, wait: Callable[[float], None] = time.sleep) -> Seen:
    """Show the run on the whole terminal until it has ended. Then bring back what the terminal
    showed before, and print the last picture below it.

    wait: as time.sleep. If it raises KeyboardInterrupt, the terminal is restored and the exception raised.
    """
    seen = reader.look()
    if seen.state == "running":
        first = Picture(seen, console.height)
        with Live(first, console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while seen.state == "running":
                wait(_PAUSE_S)
                seen = reader.look()
                live.update(Picture(seen, console.height), refresh=True)
    _print(seen, console)
    return seen


def _print(seen: Seen, console: Console) -> None:
    """Print the picture. On a terminal it leaves room for `ending` and the shell's prompt, so that its first line stays
    visible. Elsewhere it is complete."""
    below = sum(-(-max(line.cell_len, 1) // console.width) for line in ending(seen).split()) + 1
    console.print(Picture(seen, max(console.height - below, 1) if console.is_terminal else None))


def ending(seen: Seen) -> Text:
    """How the run stands or has ended, and how to go on with it, in one or two lines."""
    folder = shlex.quote(str(seen.folder))
    last = last_word(seen.events)
    details = {} if last is None else last["details"]
    code = details.get("exit_code")
    text = f"{seen.state} after step {seen.step}" + (f" (exit code {code})" if type(code) is int else "")
    if seen.state in ("failed", "interrupted"):
        reason = str(details.get("reason") or "")
        text += f": {reason}" if last is not None else ": the process was killed, or its machine went down"
        if "mars resume" not in reason:  # an interruption's reason says it already
            text += f"\nto go on: mars resume {folder}"
    return Text(visible(text, "\n"))
