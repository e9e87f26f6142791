"""How figures are written in the report."""

from __future__ import annotations

from rrm_transfer.core.quantities import counted
from rrm_transfer.evaluation.metrics import MinimumRow, Row
from rrm_transfer.training.passes import Passes

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


def duration(seconds: float) -> str:
    """Writes seconds as ``42 s`` or ``3 min 5 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def total(passes: Passes) -> str:
    """Writes how many passes a training takes: ``34.2``."""
    return f"{passes.total:,.1f}"


def factors(passes: Passes) -> str:
    """Writes what makes them: ``1.90 × 18 epochs``, where an epoch of plain training is 1."""
    return f"{passes.ratio:.2f} × {counted(passes.epochs, 'epoch')}"


def radius(value: float | None, norm: str) -> str:
    """Writes a perturbation's size in pixel units: ``0.124 (31.6/255)``; None as ``none``."""
    if value is None:
        return "none"
    return f"{value:.3g} ({255 * value:.1f}/255)" if norm == "Linf" else f"{value:.3g}"


def minimum(row: MinimumRow) -> str:
    """Sums smallest perturbations up in a sentence."""
    high = "without upper end" if row.high is None else f"to {radius(row.high, row.norm)}"
    return (
        f"Median of the smallest {row.norm} perturbations found ({row.attack}-{row.steps}): "
        f"{radius(row.median, row.norm)}, interval {radius(row.low, row.norm)} {high}, over {row.count:,} "
        f"{row.split} images; {row.wrong:,} are wrong without any and count as 0, for {row.unbroken:,} none "
        f"was found up to {row.limit:.3g}"
    )


def at(row: Row) -> str:
    """Names a measurement in a sentence: ``Linf 8/255 (pgd-20)``."""
    return f"{row.ball} ({row.effort})"
