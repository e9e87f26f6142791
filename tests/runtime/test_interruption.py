"""Signals end a run where it can be resumed."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from rrm_transfer.core.errors import Interrupted
from rrm_transfer.runtime import interruption
from rrm_transfer.runtime.interruption import StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_what_is_running(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name), StopRequest():
        _send(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_deferred_it_is_only_noted_until_the_block_ends(number: signal.Signals) -> None:
    reached = []

    def work(stop: StopRequest) -> None:
        with stop.deferred():
            _send(number)
            reached.append(stop.received)

    with StopRequest() as stop, pytest.raises(Interrupted):
        work(stop)
    assert reached == [True]


def test_without_a_signal_nothing_happens() -> None:
    with StopRequest() as stop:
        with stop.deferred():
            pass
        assert not stop.received


def test_a_repetition_is_forgiven_at_first_and_then_acts() -> None:
    with StopRequest() as stop:
        stop._deferred = True
        _send(signal.SIGINT)
        _send(signal.SIGINT)
        stop._first -= interruption._REPEAT_SECONDS + 1
        with pytest.raises(KeyboardInterrupt):
            _send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_in_the_block_comes_first() -> None:
    def work(stop: StopRequest) -> None:
        with stop.deferred():
            _send(signal.SIGTERM)
            raise ZeroDivisionError

    with StopRequest() as stop, pytest.raises(ZeroDivisionError):
        work(stop)


def test_an_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            _send(signal.SIGHUP)
            assert not stop.received
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def run() -> None:
        with StopRequest():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_where_there_is_no_hangup_the_others_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGHUP")
    with pytest.raises(Interrupted, match="SIGTERM"), StopRequest():
        _send(signal.SIGTERM)
