"""A file that is replaced is the old one or the whole new one, never a part."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from mars.errors import SetupError
from mars.output.files import give_usual_permissions, replacing, write_atomically


def test_the_draft_takes_the_files_place_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "x.txt"
    with replacing(path) as draft:
        draft.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_block_leaves_the_old_file_and_no_draft(tmp_path, failure):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write_half():
        with replacing(path) as draft:
            draft.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_that_a_killed_process_left_is_written_over(tmp_path):
    path = tmp_path / "x.txt"
    with replacing(path) as draft:
        draft.write_text("old")
    draft.write_text("left over by a process that was killed")
    with replacing(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_that_write_one_file_do_not_write_into_the_same_draft(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    with replacing(path, shared=True) as slow:
        slow.write_text("a part")
        with monkeypatch.context() as other_process:
            other_process.setattr(os, "getpid", lambda: 0)
            with replacing(path, shared=True) as quick:
                quick.write_text("whole")
        assert path.read_text() == "whole"
        slow.write_text("whole and later")
    assert path.read_text() == "whole and later"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_replaced(tmp_path, monkeypatch):
    """As root, `mars report RUN --out /dev/null` would take the device away from every process. No test risks that."""
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    pipe, end = Path("pipe"), Path("socket")
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(end))
        for path, kind in ((pipe, "a named pipe"), (end, "a socket")):
            before = path.lstat()
            with pytest.raises(SetupError, match=rf"^{path}: cannot be written \(it is {kind}, not a file\); "):
                write_atomically(path, "text")
            assert path.lstat() == before
    assert sorted(Path().iterdir()) == [pipe, end]


@pytest.mark.parametrize(("umask", "usual"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_a_file_gets_the_permissions_of_a_new_one(tmp_path, umask, usual):
    private, open_to_all = tmp_path / "private", tmp_path / "open"
    before = os.umask(umask)
    try:
        for path, mode in ((private, 0o600), (open_to_all, 0o666)):
            path.touch()
            path.chmod(mode)
        give_usual_permissions(private, open_to_all)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (private, open_to_all)] == [usual, usual]
    assert sorted(tmp_path.iterdir()) == [open_to_all, private]
