"""``rrm-transfer bench`` and ``rrm-transfer run --dry-run``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.support import tiny


def test_bench_prints_tables_or_one_document(
    cli: Cli, tiny_teacher: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # not the width of a pipe
    options = [*tiny.recipe_options(tiny_teacher, tiny_data), "--objective", "natural, rrm", "--steps", "1"]
    shown = cli("bench", *options)
    assert shown.code == 0, shown.err
    assert "where the time goes" in shown.out
    assert "│ ms per step │ ± (quartiles) │" in shown.out.replace("┃", "│")
    document = cli("bench", *options, "--json", "--quiet").document
    assert [entry["name"] for entry in document["objectives"]] == ["natural", "rrm", "rrm"]


def test_a_dry_run_shows_the_recipe_and_writes_nothing(
    cli: Cli, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = ["run", *tiny.recipe_options(tiny_teacher, tiny_data), "--dry-run", "--quiet"]
    shown = cli(*options)
    assert shown.code == 0, shown.err
    assert "precision: float32" in shown.out
    assert "no projection" in shown.out
    assert "nothing was written" in shown.out
    document = json.loads(cli(*options, "--json").out)
    assert {"recipe", "data", "student", "teacher", "cost"} <= document.keys()
    assert list(tmp_path.iterdir()) == []
