"""What a run says while it works."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rrm_transfer.runtime.progress import Narrator


def _narrator(*, terminal: bool) -> tuple[Narrator, io.StringIO]:
    stream = io.StringIO()
    return Narrator(Console(file=stream, force_terminal=terminal, width=100)), stream


def test_notes_and_warnings_are_printed_as_they_are() -> None:
    narrator, stream = _narrator(terminal=False)
    narrator.note("a [bold] folder")
    narrator.warn("mind")
    assert stream.getvalue() == "a [bold] folder\nwarning: mind\n"


def test_a_silent_narrator_needs_no_console() -> None:
    narrator = Narrator()
    narrator.note("nothing")
    with narrator.task("work", 3) as task:
        task.update(3, {"loss": "1"})


def test_plain_lines_now_and_then_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("rrm_transfer.runtime.progress.time.monotonic", lambda: clock[0])
    narrator, stream = _narrator(terminal=False)
    with narrator.task("student: RRM", 40, done=10) as task:
        for done, seconds in ((11, 1.0), (20, 20.0), (21, 21.0), (40, 60.0)):
            clock[0] = 100.0 + seconds
            task.update(done, {"ce": f"{done / 10:.1f}"})
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines[0] == "student: RRM  20/40  40 s left  ce 2.0"
    assert lines[1] == "student: RRM  40/40  0 s left  ce 4.0"


def test_a_bar_on_a_terminal() -> None:
    narrator, stream = _narrator(terminal=True)
    with narrator.task("student: RRM", 40) as task:
        task.update(40, {"ce": "2.0"})
        assert task._bar is not None
    assert "student: RRM" in stream.getvalue()
    assert "40/40" in stream.getvalue()


def test_a_task_that_fails_says_nothing_more() -> None:
    narrator, stream = _narrator(terminal=False)

    def fail() -> None:
        with narrator.task("work", 3):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stream.getvalue() == ""
