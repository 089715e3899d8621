"""When a signal raises KeyboardInterrupt in the main thread. tests/faults/test_interrupts.py ends real runs."""

from __future__ import annotations

import os
import signal

import pytest

from mars import interrupts
from mars.errors import InterruptedRun

SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_once(number):
    with interrupts.handled(lambda error: None):
        interrupts.listen()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        reason = interrupts.finish()
        assert isinstance(reason, InterruptedRun)
        assert reason.exit_code == 75
        assert signal.Signals(number).name in str(reason)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_command_interrupts_it_as_it_begins(number):
    with interrupts.handled(lambda error: None):
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            interrupts.listen()


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_ignored_while_the_policy_is_saved(number):
    with interrupts.handled(lambda error: None):
        interrupts.listen()
        interrupts.hold()
        os.kill(os.getpid(), number)
        assert interrupts.reason() is None
        assert interrupts.finish() is None


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_anything_is_started_ends_with_one_line(number, monkeypatch, capfd):
    codes, before = [], signal.getsignal(number)
    monkeypatch.setattr(os, "_exit", codes.append)
    interrupts.end_at_once()
    os.kill(os.getpid(), number)
    assert codes == [InterruptedRun.exit_code]
    name = signal.Signals(number).name
    assert capfd.readouterr() == ("", f"interrupted by {name}; start the command again\n")
    with interrupts.handled(lambda error: None):
        interrupts.listen()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert (len(codes), signal.getsignal(number)) == (1, before)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupts.end_at_once()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with interrupts.handled(lambda error: None):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with interrupts.handled(lambda error: None):
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_settled_interruption_does_not_decide_how_the_process_ends(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with interrupts.handled(lambda error: None):
        interrupts.listen()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        interrupts.settle()
        assert interrupts.finish() is None
    assert codes == []
