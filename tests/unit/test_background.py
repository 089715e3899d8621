"""A call beside the main thread: its result, its errors, and how it is stopped."""

from __future__ import annotations

import logging
import threading

import pytest

from mars import background
from mars.background import Background

WAIT_S = 20.0


def test_the_result_comes_back_from_another_thread():
    with Background(lambda: threading.current_thread().name, name="beside") as call:
        assert call.result() == "beside"


def test_the_exception_of_the_call_is_raised_where_its_result_is_wanted():
    def fails():
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"), Background(fails, name="beside") as call:
        call.result()


@pytest.mark.parametrize("leaves", [True, False])
def test_a_call_whose_result_nobody_wants_is_stopped(leaves):
    """Where the block fails, and where it only does not ask."""
    begun, stopped = threading.Event(), threading.Event()

    def goes_on():
        begun.set()
        try:
            while True:
                background.check()
        finally:
            stopped.set()

    def block():
        with Background(goes_on, name="beside"):
            assert begun.wait(WAIT_S)
            if leaves:
                raise ValueError("of the block")

    if leaves:
        with pytest.raises(ValueError, match="of the block"):
            block()
    else:
        block()
    assert stopped.is_set()
    assert "beside" not in {thread.name for thread in threading.enumerate()}


def test_a_check_elsewhere_does_nothing():
    """Beside a call that is to stop, and in a thread that the stopped call has started."""
    begun, asked, beside = threading.Event(), threading.Event(), []

    def goes_on():
        begun.set()
        while not asked.is_set():
            background.check()

    def block():
        with Background(goes_on, name="beside") as call:
            assert begun.wait(WAIT_S)
            call._stop.set()
            background.check()
            other = threading.Thread(target=lambda: beside.append(background.check()))
            other.start()
            other.join(WAIT_S)
            with pytest.raises(background.Stopped):
                call.result()

    block()
    asked.set()
    assert beside == [None]


def test_of_two_errors_that_of_the_block_goes_on_and_the_other_is_logged(caplog):
    failed = threading.Event()

    def fails():
        failed.set()
        raise KeyError("lost")

    def block():
        with Background(fails, name="beside"):
            assert failed.wait(WAIT_S)
            raise ValueError("of the block")

    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="of the block"):
        block()
    assert "beside: failed too: 'lost'" in caplog.text


def test_an_interruption_does_not_wait_for_a_call_that_does_not_stop(monkeypatch):
    monkeypatch.setattr(background, "_LEAVE_S", 0.0)
    go = threading.Event()
    with pytest.raises(KeyboardInterrupt), Background(lambda: go.wait(WAIT_S), name="beside"):
        raise KeyboardInterrupt
    assert "beside" in {thread.name for thread in threading.enumerate()}
    go.set()
