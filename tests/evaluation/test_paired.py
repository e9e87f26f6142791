"""Paired intervals against published examples and against computations of another kind."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.metrics import Row, row
from rrm_transfer.evaluation.paired import Paired, difference, mean_difference

CELLS = [(600, 50, 30, 320), (540, 20, 90, 350), (300, 0, 12, 688), (120, 80, 75, 725)]


def _rows(both: int, first: int, second: int, neither: int) -> tuple[Row, Row]:
    """Two rows whose images lie in the order of the four cells."""
    count = both + first + second + neither
    ours = range(both + first)
    theirs = [*range(both), *range(both + first, both + first + second)]
    return tuple(row("student", "test", Proportion(len(kept), count), kept=kept) for kept in (ours, theirs))  # type: ignore[return-value]


@pytest.mark.parametrize("cells", CELLS)
def test_rows_are_paired_image_by_image(cells: tuple[int, int, int, int]) -> None:
    assert Paired.of(*_rows(*cells)) == Paired(*cells)


def test_published_intervals_are_found() -> None:
    """Bentur et al. 2009 in Fagerland, Lydersen and Laake, BMC Medical Research Methodology 2014."""
    bentur = Paired(1, 1, 7, 12)
    value, low, high = bentur.difference()
    assert (round(value, 3), round(low, 3), round(high, 3)) == (-0.286, -0.507, -0.026)
    ratio = bentur.ratio()
    assert ratio is not None
    assert (round(ratio.value, 2), round(ratio.low, 3), round(ratio.high, 3)) == (0.25, 0.068, 0.923)
    assert bentur.p_value() == pytest.approx(18 / 256)


@pytest.mark.parametrize("cells", CELLS)
def test_intervals_are_those_of_a_bootstrap_over_images(cells: tuple[int, int, int, int]) -> None:
    ours, theirs = (np.asarray(rows.right()) for rows in _rows(*cells))
    generator = np.random.default_rng(1)
    drawn = generator.integers(0, len(ours), (4000, len(ours)), dtype=np.int32)
    one, other = ours[drawn].mean(1), theirs[drawn].mean(1)
    pair = Paired(*cells)
    ratio = pair.ratio()
    assert ratio is not None
    for found, values in ((pair.difference(), one - other), (ratio, one / other)):
        low, high = np.quantile(values, [0.025, 0.975])
        assert found.low == pytest.approx(low, abs=0.2 * (high - low))
        assert found.high == pytest.approx(high, abs=0.2 * (high - low))
        assert found.low < found.value < found.high


@pytest.mark.parametrize("cells", [*CELLS, (10, 0, 0, 5), (5, 9, 1, 5), (5, 3, 3, 0)])
def test_the_p_value_is_that_of_the_binomial_distribution(cells: tuple[int, int, int, int]) -> None:
    _, first, second, _ = cells
    n = first + second
    tail = sum(math.comb(n, k) for k in range(min(first, second) + 1)) / 2**n
    assert Paired(*cells).p_value() == pytest.approx(min(1.0, 2 * tail))


def test_intervals_cover_what_they_should() -> None:
    """Of 95 % intervals about 95 in 100 hold the truth."""
    generator = np.random.default_rng(3)
    chances = np.array([0.55, 0.06, 0.03, 0.36])
    held = [0, 0]
    tables = generator.multinomial(400, chances, size=2000)
    for cells in tables:
        pair = Paired(*map(int, cells))
        ratio = pair.ratio()
        assert ratio is not None
        held[0] += pair.difference().low <= 0.03 <= pair.difference().high
        held[1] += ratio.low <= 0.61 / 0.58 <= ratio.high
    assert all(0.94 <= count / len(tables) <= 0.97 for count in held)


def test_networks_that_agree_everywhere_are_not_known_to_be_equal() -> None:
    pair = Paired(16, 0, 0, 0)
    ratio = pair.ratio()
    assert ratio is not None
    assert ratio.low < 0.9
    assert ratio.high > 1.1
    assert pair.difference().low < -0.1
    assert pair.difference().high > 0.1
    assert pair.p_value() == 1.0
    assert Paired(0, 0, 0, 9).ratio() is None


def test_pairing_narrows_and_rows_without_images_are_independent_samples() -> None:
    ours, theirs = _rows(540, 20, 90, 350)
    apart = row("student", "test", Proportion(560, 1000)), row("control", "test", Proportion(630, 1000))
    assert Paired.of(ours, apart[1]) is None
    paired, independent = difference(ours, theirs), difference(*apart)
    assert (paired.paired, independent.paired) == (True, False)
    close, wide = paired.interval, independent.interval
    assert close.value == pytest.approx(wide.value)
    assert close.high - close.low < 0.6 * (wide.high - wide.low)


def test_the_mean_over_trainings_of_one_each_is_the_large_sample_interval_of_the_pair() -> None:
    ours, theirs = _rows(540, 20, 90, 350)
    found = mean_difference(*(np.asarray(one.right(), dtype=float) for one in (ours, theirs)))
    assert found == pytest.approx(difference(ours, theirs).interval, abs=2e-3)
