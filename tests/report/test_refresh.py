"""Evaluating a run enters its report."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrm_transfer import api
from rrm_transfer.engine.metrics import Metrics
from tests.report import fixtures


@pytest.mark.parametrize(("place", "enters"), [("evaluations", True), ("elsewhere", False)])
def test_an_evaluation_of_a_run_enters_its_report(tmp_path: Path, place: str, *, enters: bool) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    fixtures.metrics().write(folder.metrics)
    output = folder.path / place / "later.json"

    def evaluate() -> tuple[Metrics, Path | None]:
        fixtures.metrics().write(output)
        return fixtures.metrics(), output

    assert api._reporting(evaluate)()[1] == output
    assert folder.report.is_file() == enters
    assert not enters or "later" in folder.report.read_text(encoding="utf-8")


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    fixtures.write_evaluation(folder, "later", fixtures.metrics())
    api._reporting(lambda: (fixtures.metrics(), folder.evaluations / "later.json"))()
    assert not folder.report.exists()


def test_the_wrapped_function_keeps_its_name_and_help() -> None:
    assert api.evaluate.__name__ == "evaluate"
    assert "Measures a model." in str(api.evaluate.__doc__)
