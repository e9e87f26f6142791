"""What a run says while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rrm_transfer.core.printing import presentable

_PLAIN_INTERVAL_SECONDS = 10.0


class Narrator:
    """Prints notes and progress to standard error; silent on other processes than the first.

    Args:
        console: Where to print; None: nowhere.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console

    def note(self, text: str) -> None:
        if self.console is not None:
            self.console.print(presentable(text), highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        if self.console is not None:
            message = presentable(f"warning: {text}")
            self.console.print(message, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def task(self, title: str, total: int, *, done: int = 0) -> Task:
        """Returns a context manager that shows how far a task of ``total`` units has come."""
        return Task(self.console, title, total, done)


class Task:
    """The progress of one task; made by ``Narrator.task``."""

    def __init__(self, console: Console | None, title: str, total: int, done: int) -> None:
        self._console = console
        self._title = presentable(title)
        self._total = total
        self._done = done
        self._started_with = done
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        self._start = self._last_line = time.monotonic()
        if self._console is not None and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._id = self._bar.add_task(self._title, total=self._total, completed=self._done, facts="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._console is not None and self._last_line > self._start:
            self._line("")

    def update(self, done: int, facts: Mapping[str, str] | None = None) -> None:
        """Moves to ``done`` units; ``facts`` stand beside the bar."""
        self._done = done
        text = presentable("  ".join(f"{name} {value}" for name, value in (facts or {}).items()))
        if self._bar is not None:
            self._bar.update(self._id, completed=done, facts=text)
        elif self._console is not None and time.monotonic() - self._last_line > _PLAIN_INTERVAL_SECONDS:
            self._line(text)

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        fresh = max(1, self._done - self._started_with)
        left = (self._last_line - self._start) / fresh * (self._total - self._done)
        message = f"{self._title}  {self._done}/{self._total}  {left:.0f} s left  {text}".rstrip()
        if self._console is not None:
            self._console.print(message, highlight=False, markup=False, soft_wrap=True)
