"""What strangers' files say does not steer the terminal, nor the spreadsheet, of who looks at it."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import pty
import shutil
from pathlib import Path

import pytest

import rrm_transfer
from rrm_transfer.recipe.loading import dump_recipe, read_recipe
from rrm_transfer.report.comparison import compare
from rrm_transfer.report.comparison_text import as_csv
from rrm_transfer.report.screen import new_table, show
from rrm_transfer.runtime.progress import Narrator
from tests.cli.conftest import Cli, cli
from tests.runs.folders import figures, write_run

__all__ = ["cli"]

PACKAGE = Path(rrm_transfer.__file__).parent
STEERING = "\x1b]0;title\x07\x1b[2J\x9b31m\x7f\u202e\udcff"
SPEAKERS = {
    ("report/screen.py", "print"): "show, by which everything else prints",
    ("report/screen.py", "console.print"): "show",
    ("cli/output.py", "print"): "JSON, in which such characters are escaped",
    ("cli/app.py", "typer.echo"): "the version",
    ("cli/app.py", "typer.secho"): "the word error or stopped",
    ("runtime/progress.py", "self.console.print"): "notes and warnings",
    ("runtime/progress.py", "self._console.print"): "progress",
    ("data/fashion_mnist_mini.py", "print"): "a tool of its own: usage, and messages that are presentable",
}


def test_everything_is_printed_in_the_places_that_look_at_it() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (
            (name := ast.unparse(node.func)) == "print"
            or name.endswith((".echo", ".secho", ".print", "stdout.write", "stderr.write"))
        )
    }
    assert found == set(SPEAKERS)


def _is_clean(text: str) -> bool:
    return not set("\x1b\x07\x9b\x7f\u202e\udcff") & set(text)


def _terminal(monkeypatch: pytest.MonkeyPatch, table: bool) -> str:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = new_table(f"title {STEERING}", f"head {STEERING}")
    shown.add_row(f"cell {STEERING}")
    master, terminal = pty.openpty()
    with os.fdopen(terminal, "w", encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        show(shown if table else f"text {STEERING}")
    text = os.read(master, 10_000).decode()
    os.close(master)
    return text


@pytest.mark.parametrize("table", [True, False])
def test_a_table_and_a_text_on_a_terminal(table: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _terminal(monkeypatch, table)
    assert not {"\x07", "\x7f", "\x9b", "\u202e"} & set(text)
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert text.count(r"\x1b[2J\x9b31m\x7f\u202e\udcff") == (3 if table else 1)


def test_a_recipe_of_a_strangers(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = "# \x9b31m \u202e a comment\nstudent:\n  name: test_resnet\n"
    path.write_text(text, encoding="utf-8")
    shown = cli("recipes", "show", "mine.yaml")
    assert (shown.code, shown.out) == (0, text.replace("\x9b", "\\x9b").replace("\u202e", "\\u202e"))


def test_a_run_of_a_strangers(cli: Cli, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs" / "a", further=figures("student-best", 1, 1))
    recipe = read_recipe(str(folder.recipe))
    recipe = recipe.changed(student=recipe.student.changed(name="x\x1b]0;t\x07\x7f"))
    folder.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    hostile = tmp_path / "runs" / "b\x1b[2J\udcff"
    shutil.copytree(folder.path, hostile)
    (hostile / "metrics.json").unlink()
    for form in ("rich", "markdown", "csv", "json"):
        ended = cli("compare", "runs", "--format", form)
        assert ended.code == 0, ended.err
        assert _is_clean(ended.out + ended.err), form
    assert json.loads(ended.out)["lines"]
    assert r"b\x1b[2J\udcff" in ended.err


@pytest.mark.parametrize("speak", ["note", "warn", "task"])
def test_what_a_run_says(speak: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    narrator = Narrator(Console(stderr=True, width=200))
    if speak == "task":
        with narrator.task(STEERING, 2) as task:
            task._last_line = -100.0
            task.update(1, {STEERING: STEERING})
    else:
        getattr(narrator, speak)(STEERING)
    said = capsys.readouterr().err
    assert r"\x1b]0;title\x07" in said
    assert "\x1b]" not in said


@pytest.mark.parametrize("name", ["=cmd|'/c calc'!A1", "+1", "-2+3", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_takes_no_words_for_a_formula(name: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", seconds=60.0)
    recipe = read_recipe(str(folder.recipe))
    recipe = recipe.changed(student=recipe.student.changed(name=name))
    folder.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    _, *lines = csv.reader(io.StringIO(as_csv(compare([folder.path])), newline=""))
    cells = [cell for line in lines for cell in line]
    assert f"'{name}" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t"))]
    assert "60.0" in cells
