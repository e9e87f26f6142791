from __future__ import annotations

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import Proportion, format_count, format_eps, parse_count, parse_fraction


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), ("0.03", 0.03), (" 1e-3 ", 1e-3), (".5", 0.5), (2, 2.0), ("4.5/255", 4.5 / 255)],
)
def test_numbers_and_fractions_are_read(text: str | int, value: float) -> None:
    assert parse_fraction(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8/0",
        "-1",
        -0.5,
        "1/2/3",
        "__import__('os')",
        "nan",
        "inf",
        "8 of 255",
        "1e999",
        True,
        "0x10",
        10**400,
        "9" * 5000,
        "1" * 100_000 + "x",
        " " * 100_000 + "x",
    ],
)
def test_everything_else_is_refused(text: str | float) -> None:
    with pytest.raises(UserError, match="8/255"):
        parse_fraction(text)


@pytest.mark.parametrize(("eps", "text"), [(8 / 255, "8/255"), (0.1, "0.1"), (3.0, "3"), (1 / 255, "1/255")])
def test_eps_is_written_as_the_field_writes_it(eps: float, text: str) -> None:
    assert format_eps(eps) == text
    assert parse_fraction(text) == pytest.approx(eps, abs=1e-15)


def test_wilson_interval_matches_published_values() -> None:
    # Newcombe, Statistics in Medicine 1998, Table I, method 3 (score without continuity correction).
    for correct, count, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
    ]:
        measured = Proportion(correct, count).interval()
        assert measured == pytest.approx((low, high), abs=5e-5)


def test_the_interval_holds_the_share_itself() -> None:
    for count in (1, 40, 2000, 10_000):
        assert Proportion(0, count).interval()[0] == 0
        assert Proportion(count, count).interval()[1] == 1


def test_an_impossible_proportion_is_a_bug() -> None:
    for correct, count in [(1, 0), (5, 4), (-1, 4)]:
        with pytest.raises(ValueError, match="not a proportion"):
            Proportion(correct, count)


@pytest.mark.parametrize(
    ("text", "count", "short"),
    [
        ("10M", 10_000_000, "10M"),
        ("2.5k", 2500, "2.5K"),
        ("1G", 10**9, "1G"),
        ("321", 321, "321"),
        ("999999", 999_999, "1M"),
    ],
)
def test_counts_are_read_and_written(text: str, count: int, short: str) -> None:
    assert parse_count(text) == count
    assert format_count(count) == short


@pytest.mark.parametrize("text", ["ten", "-1M", "1MB", "", "M", "1e400", "9" * 400, "1" * 100_000 + "x"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="Not a count"):
        parse_count(text)
