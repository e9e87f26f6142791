"""The page of results is what its measurements say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.metrics import Metrics, row
from tools.results import PAGES, Entry, Results, add, adds, draw, percent, points, read_entries, render


def _entry(seed: int, kept: list[int], *, method: str = "a", data: str = "images") -> Entry:
    figure = row("student", "test", Proportion(len(kept), 10), kept=kept)
    return Entry("some-set", "series", method, seed, {"passes": {"total": 12.0}}, (figure,), data)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_rendered_from_the_measurements(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == render(Results.read(), PAGES[page])


def test_every_entry_says_how_and_where_it_was_made() -> None:
    entries = Results.read().entries
    assert entries
    for entry in entries:
        assert entry.facts.keys() >= {"commit", "machine", "passes", "train_seconds"}, entry.method
        if entry.facts.get("recipe") is not None:
            assert entry.facts["recipe"]["seed"] == entry.seed
        if entry.series not in ("teacher", "quickstart"):
            assert entry.series == "apgd" or all(figure.right() is not None for figure in entry.rows)


def test_an_evaluation_is_added_by_itself(tmp_path: Path) -> None:
    known, evaluation = tmp_path / "some-set.json", tmp_path / "teacher.json"
    figure = row("teacher", "test", Proportion(1, 10), kept=[3])
    Metrics([figure], data="images", conditions={"device": "cpu", "weights": "hash"}).write(evaluation)
    for _ in range(2):
        add(known, [evaluation], "autoattack", "the teacher", "skip", "abc", 2)
    (entry,) = read_entries(known)
    assert (entry.method, entry.seed, entry.rows, entry.data) == ("the teacher", 2, (figure,), "images")
    assert entry.facts["commit"] == "abc"
    assert entry.facts["conditions"] == {"device": "cpu"}
    Metrics([figure, replace(figure, model="student")]).write(evaluation)
    with pytest.raises(SystemExit, match="several networks"):
        add(known, [evaluation], "autoattack", "the teacher", "skip", "abc", 2)


def test_a_difference_is_that_of_the_mean_over_seeds_image_by_image() -> None:
    results = Results([
        _entry(0, [0, 1, 2, 3]), _entry(1, [0, 1, 2, 3, 4, 5]), _entry(0, [0, 1, 6], method="b"),
    ])  # fmt: skip
    value, low, high = results.difference(("series", "a"), ("series", "b"), "none", None)
    each = np.array([0, 0, 1, 1, 0.5, 0.5, -1, 0, 0, 0])
    assert value == pytest.approx(each.mean())
    assert (high - low) / 2 == pytest.approx(1.959964 * each.std(ddof=1) / np.sqrt(10), rel=1e-5)
    assert results.difference(("series", "a"), ("series", "b"), "none", None, seeds=((0,), (0,)))[
        0
    ] == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"no seed \[1\]"):
        results.difference(("series", "a"), ("series", "b"), "none", None, seeds=((0,), (1,)))
    other = replace(_entry(0, [1], method="b"), data="other images")
    with pytest.raises(ValueError, match="other images"):
        Results([*results.entries[:2], other]).difference(("series", "a"), ("series", "b"), "none", None)


def test_only_a_difference_beyond_its_interval_is_said_to_add() -> None:
    def measured(method: str, clean: int, robust: int) -> Entry:
        rows = (
            row("student", "test", Proportion(clean, 100), kept=range(clean)),
            row(
                "student",
                "test",
                Proportion(robust, 100),
                kept=range(robust),
                attack="pgd",
                norm="Linf",
                eps=0.1,
            ),
        )
        return replace(_entry(0, [], method=method), rows=rows)

    results = Results([measured("a", 90, 50), measured("b", 80, 49)])
    assert adds(results, ("series", "a"), ("series", "b"), (None, 0.1)) == "clean"
    assert adds(results, ("series", "b"), ("series", "a"), (None, 0.1)) == "nothing; loses clean"


def test_words() -> None:
    assert percent([0.5]) == "50.0"
    assert percent([0.5, 0.6]) == "55.0 ± 7.1"
    assert points(Results([_entry(0, [0]), _entry(0, [0, 1], method="b")]).difference(
        ("series", "a"), ("series", "b"), "none", None
    )).startswith("−10.0 [")  # fmt: skip


def test_the_plot_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(Results.read(), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
