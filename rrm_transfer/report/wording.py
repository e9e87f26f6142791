"""How figures are written in the report."""

from __future__ import annotations

from rrm_transfer.core.quantities import format_eps
from rrm_transfer.evaluation.metrics import Row
from rrm_transfer.report.table import attack_title

MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"


def percent(value: float, digits: int = 1) -> str:
    """Writes 0.645 as ``64.5 %``."""
    return f"{100 * value:.{digits}f}{SPACE}%"


def points(difference: float) -> str:
    """Writes a difference of accuracies in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def figure(value: object) -> str:
    """Writes a check's figure or limit: numbers short, None as a dash, anything else as it is."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", MINUS)
    return str(value)


def ball(row: Row) -> str:
    """Names the ball of a row: ``Linf 8/255``, or ``clean``."""
    if row.attack == "none" or row.eps is None:
        return "clean"
    return f"{row.norm}{SPACE}{format_eps(row.eps)}"


def at(row: Row) -> str:
    """Names a measurement in a sentence: ``Linf 8/255 (PGD-20)``."""
    return f"{ball(row)} ({attack_title(row)})"
