"""Tables on a terminal, and the same tables as clean text in a file or a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

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


def show(*parts: Table | str) -> None:
    """Prints to standard output: as wide as the terminal, and elsewhere as wide as the text needs."""
    console = _console()
    for part in parts:
        if isinstance(part, str):
            print(part, file=console.file)
        elif console.is_terminal:
            console.print(part)
        else:
            unbounded = console.options.update(width=_UNBOUNDED)
            _console(Measurement.get(console, unbounded, part).maximum).print(part)


def _console(width: int | None = None) -> Console:
    return Console(markup=False, highlight=False, emoji=False, width=width)
