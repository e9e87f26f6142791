"""What a part of the rehearsal finds: rows on the screen and in a file, kept as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Row = dict[str, Any]


class Findings:
    """The rows of one part; an error is a row like any other, and those after it are found all the same.

    Args:
        file: JSON lines are appended to it.
        seconds: After which nothing more is begun.

    Attributes:
        rows: In order.
    """

    def __init__(self, file: Path, *, seconds: float) -> None:
        self.rows: list[Row] = []
        self._file = file
        self._end = time.monotonic() + seconds

    @property
    def failed(self) -> bool:
        """Whether something went wrong, or was left out for want of time."""
        return any("failed" in row for row in self.rows)

    @contextmanager
    def row(self, what: str, **facts: Any) -> Iterator[Row]:
        """Gives a row to be filled in.

        Args:
            what: Is found.
            facts: Known before.
        """
        row: Row = {"what": what, **facts}
        begun = time.monotonic()
        try:
            yield row
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"[:500]
        row["took_s"] = round(time.monotonic() - begun, 2)
        self._keep(row)

    def in_time(self, cases: Iterable[T]) -> Iterator[T]:
        """Yields cases until the time is over; what is left out is told."""
        left = list(cases)
        while left and time.monotonic() < self._end:
            yield left.pop(0)
        if left:
            self._keep({"what": "left out", "failed": "no time left", "cases": [str(case) for case in left]})

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        what, *facts = row.values()
        print(what, *(f"{name}={value}" for name, value in zip([*row][1:], facts, strict=True)), flush=True)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=str) + "\n")
