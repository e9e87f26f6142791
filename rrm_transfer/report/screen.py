"""Tables on a terminal, and the same tables as clean text in a file or a pipe."""

from __future__ import annotations

import sys

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from rrm_transfer.core.printing import presentable

_UNBOUNDED = 10_000
"""Characters that no table is wide."""


def new_table(title: str | None, *columns: str, figures: tuple[str, ...] = ()) -> Table:
    """Makes a table whose cells fold where a terminal is narrow: no text is ever cut off.

    Args:
        title: Above it.
        columns: Heads of columns of words.
        figures: Heads of the columns after them, aligned to the right.
    """
    table = Table(title=title)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for column in figures:
        table.add_column(Text(column), justify="right", overflow="fold")
    return table


def show(*parts: Table | str, error: bool = False) -> None:
    """Prints what commands have to say, the one place for it but for progress and JSON.

    Whatever a file brought into it is made presentable. Tables are as wide as the terminal, and elsewhere as
    wide as their text needs.

    Args:
        parts: Each on lines of its own.
        error: Whether it goes to standard error.
    """
    for part in parts:
        if isinstance(part, str):
            print(presentable(part), file=sys.stderr if error else sys.stdout, flush=True)
            continue
        console = _console()
        if not console.is_terminal:
            unbounded = console.options.update(width=_UNBOUNDED)
            console = _console(Measurement.get(console, unbounded, part).maximum)
        console.print(_Presentable(part))


class _Presentable:
    """A table whose text steers no terminal; what rich itself says to the terminal stays."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._table, options):
            yield segment if segment.control else Segment(presentable(segment.text), segment.style)


def _console(width: int | None = None) -> Console:
    return Console(markup=False, highlight=False, emoji=False, width=width)
