"""Evaluating a run enters its report."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rrm_transfer import api
from rrm_transfer.core.errors import UserError
from rrm_transfer.evaluation.metrics import Metrics
from rrm_transfer.runs.finished import read_finished
from rrm_transfer.runtime.progress import Narrator
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


def test_a_damaged_run_is_measured_and_keeps_its_report(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    fixtures.metrics().write(folder.metrics)
    config = folder.student / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    del content["rrm"]["weights"]
    config.write_text(json.dumps(content), encoding="utf-8")
    folder.report.write_text("as it was", encoding="utf-8")
    output = folder.evaluations / "later.json"

    def evaluate(*, narrator: Narrator) -> tuple[Metrics, Path | None]:
        return fixtures.metrics(), output

    told = io.StringIO()
    assert api._reporting(evaluate)(narrator=Narrator(Console(file=told)))[1] == output
    assert "the report stays as it was" in told.getvalue()
    assert "config.json, rrm.weights holds nothing" in " ".join(told.getvalue().split())
    assert folder.report.read_text(encoding="utf-8") == "as it was"
    with pytest.raises(UserError, match="changed or is damaged"):
        read_finished(folder.path)


def test_the_wrapped_function_keeps_its_name_and_help() -> None:
    assert api.evaluate.__name__ == "evaluate"
    assert "Measures a model." in str(api.evaluate.__doc__)
