"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, TypeVar

Part = Literal["data", "teacher", "student forward", "attack", "backward", "optimizer"]
T = TypeVar("T")
Clock = Callable[[Part], AbstractContextManager[None]]
"""Wraps a part of a step."""


def untimed(part: Part) -> AbstractContextManager[None]:
    """Measures nothing."""
    return nullcontext()


class Waiting:
    """Measures how long a loop waits for what it works on.

    Attributes:
        seconds: So far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, stream: Iterator[T]) -> Iterator[T]:
        """Yields what ``stream`` yields."""
        while True:
            begun = time.monotonic()
            try:
                item = next(stream)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - begun
            yield item


class Timer:
    """Tells when something is due again.

    Args:
        seconds: Between two times; 0: always.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.restart()

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def restart(self) -> None:
        self._due = time.monotonic() + self._seconds


class Stopwatch:
    """Adds up the seconds of each part; what a part contains belongs to it.

    Args:
        synchronise: Waits for the device, at the beginning and the end of each part.

    Attributes:
        seconds: By part.
    """

    def __init__(self, synchronise: Callable[[], None]) -> None:
        self.seconds: dict[Part, float] = {}
        self._synchronise = synchronise
        self._busy = False

    @contextmanager
    def __call__(self, part: Part) -> Iterator[None]:
        if self._busy:
            yield
            return
        self._busy = True
        self._synchronise()
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._synchronise()
            self._busy = False
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begun
