"""Numbers as users write them, and accuracies as they are reported."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rrm_transfer.core.errors import UserError

MOST = 10**9
"""Nothing in a run is done or counted more often."""
LARGEST_SIDE = 1 << 12
"""Pixels of an image's side."""
LARGEST_SEED = 2**63 - 1
"""That torch's generators take."""

_LONGEST = 100
"""Characters of a number."""
_DECIMAL = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FRACTION = re.compile(rf"\s*({_DECIMAL})\s*(?:/\s*({_DECIMAL}))?\s*")

_THOUSANDS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def parse_fraction(text: str | int | float) -> float:
    """Reads ``8/255``, ``0.03`` or a number; nothing is evaluated.

    Raises:
        UserError: It is neither, is negative, not finite, or divides by zero.
    """
    problem = UserError(
        "Not a number or a fraction.",
        received=text,
        allowed="a number such as 0.03 or 8/255, 0 or more",
    )
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise problem
    if isinstance(text, int | float):
        try:
            value = float(text)
        except OverflowError:
            raise problem from None
    else:
        match = _FRACTION.fullmatch(text) if len(text) <= _LONGEST else None
        if match is None:
            raise problem
        numerator, denominator = float(match[1]), float(match[2] or 1)
        if denominator == 0:
            raise problem
        value = numerator / denominator
    if not math.isfinite(value) or value < 0:
        raise problem
    return value


def parse_count(text: str) -> int:
    """Reads a whole number that may end in K, M or G: ``10M`` is ten million.

    Raises:
        UserError: It is another form.
    """
    match = re.fullmatch(rf"\s*({_DECIMAL})\s*([kKmMgG]?)\s*", text) if len(text) <= _LONGEST else None
    count = float(match[1]) * _THOUSANDS[match[2].upper()] if match else math.inf
    if not math.isfinite(count):
        raise UserError("Not a count.", received=text, allowed="a number such as 500000, 2.5M or 1G")
    return round(count)


def format_count(count: int) -> str:
    """Writes a count the way `parse_count` reads it, to three digits: ``22.1M``."""
    for unit in ("G", "M", "K"):
        if count >= 0.9995 * _THOUSANDS[unit]:
            return f"{count / _THOUSANDS[unit]:.3g}{unit}"
    return str(count)


def counted(count: int, noun: str) -> str:
    """Writes ``1 epoch``, ``18 epochs``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def format_eps(eps: float) -> str:
    """Writes an eps the way the field does: as n/255 where that is exact to 1e-9, else as a decimal."""
    numerator = eps * 255
    if 0 < round(numerator) < 255 and abs(numerator - round(numerator)) < 1e-9:
        return f"{round(numerator)}/255"
    return f"{eps:g}"


def wilson_interval(p: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Returns the 95 % score interval of a share ``p`` that was seen in ``n`` independent trials.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # p itself is in the interval, which rounding forgets at 0 and at 1.
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of a median, for sizes of whatever distribution.

    The ends are order statistics: of n values as many are below the true median as n throws have heads
    (Thompson, "On confidence ranges for the median", Annals of Mathematical Statistics 1936).

    Args:
        ordered: Ascending, 0 or more.

    Returns:
        0 and infinity for fewer than six values, which allow no such interval.
    """
    n = len(ordered)
    rank, term, below = 0, 1, 1  # below: how many of 2^n throws have at most ``rank`` heads
    while 40 * below <= 2**n:
        rank += 1
        term = term * (n - rank + 1) // rank
        below += term
    return (ordered[rank - 1], ordered[n - rank]) if rank else (0.0, math.inf)


@dataclass(frozen=True)
class Proportion:
    """A count of successes with its 95 % Wilson score interval."""

    correct: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.count or self.count == 0:
            raise ValueError(f"not a proportion: {self.correct} of {self.count}")

    @property
    def value(self) -> float:
        return self.correct / self.count

    def interval(self) -> tuple[float, float]:
        """Returns the lower and upper bound, both in [0, 1]."""
        return wilson_interval(self.value, self.count)
