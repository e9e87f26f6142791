"""Two accuracies on the same images: what their difference and their ratio are known to be.

Images that both networks get right, or both get wrong, tell nothing about the difference; intervals that
know which images those are, are narrower than those of two samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rrm_transfer.core.quantities import wilson_interval
from rrm_transfer.evaluation.metrics import Row

Z = 1.959963984540054
"""Of a 95 % interval."""


class Interval(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """How far one accuracy is from another.

    Attributes:
        interval: Of the first less the second.
        paired: Whether the images were compared one by one; else the interval is that of two independent
            samples, which is rather too wide where the images are the same.
        p: Of McNemar's exact test; None where an accuracy is that of several trainings, or nothing is paired.
    """

    interval: Interval
    paired: bool
    p: float | None = None


@dataclass(frozen=True)
class Paired:
    """How often two networks were right on the same images.

    Attributes:
        both: Images that both classify correctly.
        first: Only the first.
        second: Only the second.
        neither: None of the two.
    """

    both: int
    first: int
    second: int
    neither: int

    @classmethod
    def of(cls, first: Row, second: Row) -> Paired | None:
        """Pairs two rows, whose images the caller knows to be the same; None where a row knows no images."""
        one, other = first.right(), second.right()
        if one is None or other is None or len(one) != len(other):
            return None
        both, either = int((one & other).sum()), int((one | other).sum())
        return cls(both, int(one.sum()) - both, int(other.sum()) - both, len(one) - either)

    @property
    def count(self) -> int:
        return self.both + self.first + self.second + self.neither

    def difference(self) -> Interval:
        """Returns the first accuracy less the second.

        Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
        paired data", Statistics in Medicine 1998, method 10.
        """
        n, p, q = self.count, (self.both + self.first) / self.count, (self.both + self.second) / self.count
        return _square_and_add(p, wilson_interval(p, n), q, wilson_interval(q, n), self._correlation())

    def _correlation(self) -> float:
        """Newcombe's phi, with his correction for continuity where it is positive."""
        right, wrong = self.both + self.first, self.second + self.neither
        right_too, wrong_too = self.both + self.second, self.first + self.neither
        scale = math.sqrt(right * wrong * right_too * wrong_too)
        if not scale:
            return 0.0
        product = self.both * self.neither - self.first * self.second
        return (max(product - self.count / 2, 0.0) if product > 0 else product) / scale

    def ratio(self) -> Interval | None:
        """Returns the first accuracy divided by the second; None where the second is 0.

        Bonett and Price, "Confidence intervals for a ratio of binomial proportions based on paired data",
        Statistics in Medicine 2006: Wilson intervals of the two, among the images that at least one gets
        right, narrowed by what the pairs have in common. Unlike a bootstrap's it has a width where the two
        agree on every image.
        """
        n, one, other = self.count - self.neither, self.both + self.first, self.both + self.second
        if not other:
            return None
        joint = math.sqrt((self.first + self.second + 2) / ((one + 1) * (other + 1)))
        apart = sum(math.sqrt((1 - (k + 1) / (n + 2)) / (k + 1)) for k in (one, other))
        z = Z * joint / apart
        (low, high), (low_other, high_other) = (wilson_interval(k / n, n, z) for k in (one, other))
        return Interval(one / other, low / high_other, high / low_other)

    def p_value(self) -> float:
        """Returns the two-sided p of the exact test that both are equally accurate.

        McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
        Psychometrika 1947: of the images that one network alone gets right, half are the first's.
        """
        n, fewer = self.first + self.second, min(self.first, self.second)
        term = total = 1
        for k in range(1, fewer + 1):
            term = term * (n - k + 1) // k
            total += term
        return min(1.0, float(Fraction(2 * total, 2**n)))


def difference(first: Row, second: Row) -> Difference:
    """Returns the difference of two accuracies on the same images, paired where both rows know them."""
    paired = Paired.of(first, second)
    if paired is not None:
        return Difference(paired.difference(), paired=True, p=paired.p_value())
    return unpaired_difference(first.accuracy, first.count, second.accuracy, second.count)


def unpaired_difference(p: float, n: int, q: float, m: int) -> Difference:
    """Returns the difference of two accuracies on images that are others, or not known one by one.

    Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine
    1998, method 10.

    Args:
        p: The first accuracy.
        n: Its images.
        q: The second.
        m: Its images.
    """
    return Difference(_square_and_add(p, wilson_interval(p, n), q, wilson_interval(q, m), 0.0), paired=False)


def mean_difference(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> Interval:
    """Returns the difference of two mean accuracies, each over several trainings, on the same images.

    The interval is that of the mean of the images' differences, for large samples. It is about other images;
    how much other trainings would differ, the standard deviation over seeds tells.

    Args:
        first: Share of the trainings that got each image right, ``(N,)``.
        second: As ``first``.
    """
    each = first - second
    half = Z * float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else 1.0
    value = float(each.mean())
    return Interval(value, max(-1.0, value - half), min(1.0, value + half))


def _square_and_add(
    p: float, of_p: tuple[float, float], q: float, of_q: tuple[float, float], correlation: float
) -> Interval:
    below, above = p - of_p[0], of_p[1] - p
    below_q, above_q = q - of_q[0], of_q[1] - q
    low = math.sqrt(max(0.0, below**2 - 2 * correlation * below * above_q + above_q**2))
    high = math.sqrt(max(0.0, above**2 - 2 * correlation * above * below_q + below_q**2))
    return Interval(p - q, p - q - low, p - q + high)
