"""The folder of a judge's answers beside other processes that write to it."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path

import pytest

from mars.rewards.judge_cache import AnswerCache

KEYS = [f"ab{number:062x}" for number in range(4)]


def failing_reads(monkeypatch: pytest.MonkeyPatch, *errors: int) -> None:
    """The next reads of files fail with these errors."""
    left, read = list(errors), Path.read_bytes

    def read_bytes(file: Path) -> bytes:
        if left:
            raise OSError(left.pop(0), "cannot read")
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def test_a_file_that_another_machine_replaces_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = AnswerCache(tmp_path, 1000)
    cache.put(KEYS[0], "yes")
    failing_reads(monkeypatch, errno.ESTALE)
    assert cache.get(KEYS[0]) == "yes"


@pytest.mark.parametrize("second", [errno.ESTALE, errno.ENOENT])
def test_a_file_that_another_machine_deletes_is_missing(tmp_path: Path, monkeypatch, second: int) -> None:
    cache = AnswerCache(tmp_path, 1000)
    cache.put(KEYS[0], "yes")
    failing_reads(monkeypatch, errno.ESTALE, second)
    assert cache.get(KEYS[0]) is None


def test_other_errors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_reads(monkeypatch, errno.EACCES)
    with pytest.raises(PermissionError):
        AnswerCache(tmp_path, 1000).get(KEYS[0])


def test_a_file_that_another_machine_deletes_while_the_oldest_are_sought_loses_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache, stat = AnswerCache(tmp_path, 256), os.stat
    cache.put(KEYS[0], "old")

    def stale(path: str, **options: object) -> os.stat_result:
        if KEYS[0] in str(path):
            raise OSError(errno.ESTALE, "Stale file handle")
        return stat(path)

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(os, "stat", stale)
        cache.put(KEYS[1], "new")
    assert caplog.records == []


def test_drafts_that_others_write_now_are_kept_and_do_not_count(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path, 2 * 256)
    cache.put(KEYS[0], "first")
    new, old = tmp_path / "ab" / f".{KEYS[3]}.1.1", tmp_path / "ab" / f".{KEYS[3]}.2.2"
    for draft, age in ((new, 60), (old, 7200)):
        draft.write_text("half")
        os.utime(draft, (time.time() - age,) * 2)
    cache.put(KEYS[1], "second")
    assert (new.exists(), old.exists()) == (True, False)
    assert [cache.get(key) for key in KEYS[:2]] == ["first", "second"]
