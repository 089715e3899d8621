"""No control or invisible character of a text reaches the terminal, on any of the ways to it; colours of ours do."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import unicodedata
from contextlib import suppress

import pytest
from rich.progress import track
from rich.table import Table
from rich.text import Text

from mars.errors import DataError
from mars.output.console import VisibleConsole
from mars.output.terminal import VisibleStream, _Outliving, escaped_output
from mars.output.text import visible
from mars.process import LOG_FILE, log_to, run_command

C0 = [chr(i) for i in range(32) if chr(i) not in "\n\t\r"]
C1 = [chr(i) for i in range(0x7F, 0xA0)]
BIDI = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
INVISIBLE = list("\u00ad\u200b\u2028\u2029\ufeff\U000e0041\ud800")
HIDDEN = [*C0, *C1, *BIDI, *INVISIBLE]
NASTY = "".join(HIDDEN)
SHOWN = "naïve 日本語 ½ 😀 <b> [red]x[/red] \\x1b"


def raw_ones(text: str) -> set[str]:
    """The characters of `text` that act on a terminal or hide on it, but for ends of lines and tabs."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - set("\n\t\r")


def test_every_hidden_character_gets_an_escape_and_every_other_one_stays():
    for character in HIDDEN:
        escaped = visible(f"a{character}b")
        assert raw_ones(escaped) == set(), escaped
        assert escaped[0] == "a"
        assert escaped[1] == "\\"
        assert escaped[-1] == "b"
    assert visible(SHOWN) == SHOWN
    assert visible("a\nb\t\x9bc", "\n\t") == "a\nb\t\\x9bc"
    assert visible("a\nb") == "a\\nb"


def test_a_stream_escapes_what_others_print(tmp_path):
    path = tmp_path / "terminal"
    with path.open("wb") as file:
        stream = VisibleStream(file.fileno(), "utf-8", line_buffering=False)
        print(f"{NASTY}\n{SHOWN}", file=stream)
        with pytest.raises(TypeError):
            stream.write(b"")
        stream.write_as_it_is("\x1b[1m")
        stream.close()
    text = path.read_text(encoding="utf-8")
    assert raw_ones(text) == {"\x1b"}
    assert text.endswith(f"\n{SHOWN}\n\x1b[1m")


def test_a_stream_escapes_what_its_encoding_lacks(tmp_path):
    path = tmp_path / "terminal"
    with path.open("wb") as file, VisibleStream(file.fileno(), "ascii", line_buffering=False) as stream:
        stream.write("B \u2212 A")
    assert path.read_bytes() == b"B \\u2212 A"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_tables_texts_and_bars_of_rich_are_escaped_and_keep_their_colours(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    console = VisibleConsole(width=2000)
    table = Table("name", title=Text(NASTY))
    table.add_row(Text(f"cell {NASTY}", style="red"))
    console.print(table)
    console.print(Text(NASTY))
    console.print(f"plain {NASTY}", markup=False)
    for _ in track([1], f"bar {NASTY.replace('[', '')}", console=console):
        sys.stdout.write(f"printed under the bar {NASTY}\n")
    shown = terminal.getvalue()
    for word in ("cell", "plain", "bar", "printed under the bar"):
        assert word in shown
    # rich's own sequences begin with ESC; no other control character is left.
    assert raw_ones(shown) == {"\x1b"}
    assert "\x1b[31mcell " in shown
    assert "\\x9b" in shown
    assert "\\u202e" in shown


@pytest.mark.parametrize("failure", [DataError, ValueError])
def test_messages_logs_and_tracebacks_of_a_command_are_escaped(ended, monkeypatch, tmp_path, failure):
    # pytest would keep the records, and cannot send lone surrogates from its workers.
    monkeypatch.setattr(logging.getLogger("mars"), "propagate", False)

    def main():
        log_to(str(tmp_path))
        logging.getLogger("mars.part").warning("file %s", NASTY)
        sys.stdout.write(f"{NASTY}\n")
        sys.stderr.write(f"{NASTY}\n")
        raise failure(f"row\n{NASTY}")

    result = ended(lambda: run_command(main))
    assert result.returncode in (3, 1)
    log = (tmp_path / LOG_FILE).read_text(encoding="utf-8")
    for text in (result.stdout, result.stderr, log):
        assert raw_ones(text) == set()
        assert "\\x9b" in text


def test_streams_come_back_after_the_block(capfd):
    before = sys.stdout, sys.stderr
    with escaped_output():
        sys.stdout.write("\x9b\n")
        assert isinstance(sys.stdout, VisibleStream)
    assert (sys.stdout, sys.stderr) == before
    assert capfd.readouterr().out == "\\x9b\n"


@pytest.fixture
def closed_pipe():
    """A descriptor of a pipe that has no reader, as in `mars resume RUN 2>&1 | head` after head has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_what_is_printed_to_a_closed_pipe_is_dropped(closed_pipe):
    with pytest.raises(BrokenPipeError):
        os.write(closed_pipe, b"x")
    stream = VisibleStream(closed_pipe, "utf-8", line_buffering=True)
    for _ in range(3):
        print("x" * 100_000, file=stream, flush=True)  # more than the buffers take
    stream.close()
    assert os.write(closed_pipe, b"x") == 1  # processes that are started later do not fail either


def test_a_log_that_took_the_place_of_a_closed_pipe_is_written_on(closed_pipe, tmp_path):
    """As of the driver's stderr while Ray runs."""
    stream = VisibleStream(closed_pipe, "utf-8", line_buffering=True)
    with (tmp_path / "driver.err").open("wb") as log:
        os.dup2(log.fileno(), closed_pipe)
    print("a line for nobody", file=stream)
    os.write(closed_pipe, b"a line of the log")
    stream.close()
    assert (tmp_path / "driver.err").read_bytes() == b"a line of the log"


def test_a_disk_that_fails_is_an_error_and_a_closed_terminal_none(tmp_path):
    """A terminal whose window was closed, and some disks, answer EIO."""
    main, terminal = os.openpty()
    closed = VisibleStream(terminal, "utf-8", line_buffering=True)
    os.close(main)
    print("x", file=closed)
    closed.close()
    os.close(terminal)
    with (tmp_path / "file").open("wb") as file, _Outliving(file.fileno()) as disk:
        assert not disk._has_lost_reader(OSError(errno.EIO, "Input/output error"))


def test_a_disk_that_is_full_is_still_an_error():
    with open("/dev/full", "wb") as file:
        stream = VisibleStream(file.fileno(), "utf-8", line_buffering=True)
        with pytest.raises(OSError, match="No space left"):
            stream.write("x\n")
        with suppress(OSError):
            stream.close()


def test_a_command_goes_on_to_its_end_when_nobody_reads_it(ended, monkeypatch, closed_pipe):
    monkeypatch.setattr(logging.getLogger("mars"), "propagate", False)
    done = []

    def main():
        logging.getLogger("mars.part").warning("a line of the log")
        VisibleConsole(width=80).print("a line of the console tracker")  # rich alone would end the process
        for _ in range(3):
            sys.stderr.write("\rWriting model shards")  # a progress bar of a library
            sys.stderr.flush()
            done.append(1)
        return 0

    with io.TextIOWrapper(os.fdopen(os.dup(closed_pipe), "wb"), write_through=True) as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", out)
        assert ended(lambda: run_command(main)).returncode == 0
    assert done == [1, 1, 1]
