"""Signals that ask a run to stop where it can be resumed."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from rrm_transfer.core.errors import Interrupted

_REPEAT_SECONDS = 3.0
"""Terminal and launcher may each deliver the same request; later than this, a repetition is impatience."""
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""By name: Windows has no SIGHUP."""


class StopRequest:
    """Turns SIGINT, SIGTERM and SIGHUP into the end of a run; a later second one acts at once.

    A signal raises ``Interrupted`` where the program is, except within ``deferred``: there it is left to the
    block to look at ``received``.
    """

    def __init__(self) -> None:
        self.received = False
        self._deferred = False
        self._first = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) is signal.SIG_IGN:  # as under nohup
                continue
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: signals are not ours to take
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Lets the block come to its end first.

        Raises:
            Interrupted: The block ended as if nothing had happened, and a signal was received meanwhile.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.received:
            raise Interrupted("stopped between training and what follows")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received:
            if now - self._first > _REPEAT_SECONDS:
                self._restore()
                signal.raise_signal(number)
            return
        self.received, self._first = True, now
        name = signal.Signals(number).name
        if name == "SIGHUP":
            _forget_closed_terminal()
        if not self._deferred:
            raise Interrupted(f"stopped by {name}")

    def _restore(self) -> None:
        while self._previous:
            number, previous = self._previous.popitem()
            signal.signal(number, previous)


def _forget_closed_terminal() -> None:
    """Lets what is still printed go nowhere: writing to a terminal that is gone would fail."""
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
