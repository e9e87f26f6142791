"""``rrm-transfer compare``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rrm_transfer.report.comparison_text import FORMATS
from tests.cli.conftest import Cli
from tests.runs.folders import figures, write_grid, write_run


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return write_grid(tmp_path / "grid")


def test_the_command_prints_each_form_and_notes_stand_on_standard_error(grid: Path, cli: Cli) -> None:
    write_run(grid / "unfinished").metrics.unlink()
    for form in (*FORMATS, "json"):
        ended = cli("compare", str(grid), "--format", form)
        assert ended.code == 0
        assert "unfinished: not finished" in ended.err
        assert "40.5%" in ended.out or "0.405" in ended.out
        assert "\x1b" not in ended.out
    assert json.loads(ended.out) == json.loads(cli("compare", str(grid), "--json").out)
    assert cli("compare", str(grid), "--quiet").err == ""
    assert cli("compare", str(grid / "nothing")).code == 2


def test_the_command_draws(grid: Path, cli: Cli, tmp_path: Path) -> None:
    ended = cli("compare", str(grid), "--plot", "plot.png")
    assert ended.code == 0
    assert "plot.png" in ended.err
    assert (tmp_path / "plot.png").is_file()


def test_a_piped_table_loses_nothing(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "vit_small_patch16_224"
    best = figures("student-best", 700, 600)
    write_run(tmp_path / "a", distance="relative_l2", noise=1.0, student=name, control=9.0, further=best)
    out = cli("compare", "a").out
    for words in (name, "rrm:distance=relative_l2:noise=1.0 (best)", "[77.4%, 82.4%]", "teacher's training"):
        assert words in out
    assert "…" not in out


def test_a_plot_of_another_kind_is_refused_before_anything_is_read(cli: Cli) -> None:
    ended = cli("compare", "missing", "--plot", "plot.gif")
    assert ended.code == 2
    assert "plot.gif" in ended.err
