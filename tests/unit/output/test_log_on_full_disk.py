"""mars.log on a disk that is full or read-only: one warning in the terminal, and the run goes on."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from mars.process import LOG_FILE
from tests.run_log import logging_to


@pytest.fixture
def log(tmp_path):
    with logging_to(tmp_path):
        yield logging.getLogger("mars")


class FullDisk:
    """A file that takes nothing."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self):
        pass

    def close(self):
        pass


def test_a_full_disk_gives_one_warning_and_no_traceback(log, tmp_path, capsys):
    log.info("first")
    handler = log.handlers[-1]
    handler.stream.close()
    handler.stream = FullDisk()
    for _ in range(3):
        log.info("lost")
    said = capsys.readouterr().err
    assert said == f"WARNING {tmp_path / LOG_FILE}: No space left on device; the run goes on without this log\n"
    assert (tmp_path / LOG_FILE).read_text().endswith("first\n")


def test_a_file_that_cannot_be_made_gives_one_warning(log, tmp_path, capsys, monkeypatch):
    def touch(self, mode):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", touch)
    for _ in range(2):
        log.info("lost")
    assert capsys.readouterr().err.count("Read-only file system; the run goes on without this log") == 1
