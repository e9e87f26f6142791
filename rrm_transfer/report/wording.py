"""How figures are written in the report."""

from __future__ import annotations

from rrm_transfer.evaluation.metrics import Row

MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"


def percent(value: float, digits: int = 1) -> str:
    """Writes 0.645 as ``64.5 %``."""
    return f"{100 * value:.{digits}f}{SPACE}%"


def points(difference: float) -> str:
    """Writes a difference of accuracies in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def figure(value: float | None, digits: int = 4) -> str:
    """Writes a check's figure or limit; None, which is no number, as a dash."""
    return "–" if value is None else f"{value:.{digits}g}".replace("-", MINUS)


def at(row: Row) -> str:
    """Names a measurement in a sentence: ``Linf 8/255 (pgd-20)``."""
    return f"{row.ball} ({row.effort})"
