"""What commands print: clean text in a pipe, one JSON document, silence on request."""

from __future__ import annotations

import json
import os
import pty
from pathlib import Path

import pytest

from rrm_transfer.report.screen import new_table, show
from tests.cli.conftest import Cli

LISTINGS = [
    ["inspect"],
    ["recipes", "ls"],
    ["run", "--objective", "rrm-adv", "--help-objective"],
    ["inspect", "--student", "test_vit*", "--input", "32"],
    ["recipes", "show", "quickstart"],
    ["recipes", "validate", "quickstart"],
    ["doctor"],
]


@pytest.mark.parametrize("arguments", LISTINGS, ids=" ".join)
def test_piped_output_is_clean_text_whatever_the_width(
    arguments: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR")
    outputs = []
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        outputs.append(cli(*arguments).out)
    narrow, wide = outputs
    assert narrow == wide
    assert narrow
    assert "\x1b" not in narrow
    assert "…" not in narrow.replace("f / …", "")


@pytest.mark.parametrize("arguments", LISTINGS, ids=" ".join)
def test_json_is_one_document(arguments: list[str], cli: Cli) -> None:
    ended = cli(*arguments, "--json")
    assert ended.code == 0
    assert json.loads(ended.out)


def test_quiet_is_silent_but_for_results(cli: Cli, tmp_path: Path) -> None:
    assert cli("recipes", "cp", "quickstart", "mine.yaml", "--quiet") == (0, "", "")
    assert cli("recipes", "validate", "mine.yaml", "-q") == (0, "", "")
    assert cli("inspect", "--student", "test_vit", "--quiet").err == ""
    copied = cli("recipes", "cp", "quickstart", "other.yaml", "--json").document
    assert copied == {"written": "other.yaml"}


def test_quiet_silences_the_progress_of_libraries(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
    for name in names:
        monkeypatch.setenv(name, "0")
    assert cli("recipes", "ls").code == 0
    assert [os.environ[name] for name in names] == ["0", "0"]
    assert cli("recipes", "ls", "--quiet").code == 0
    assert [os.environ[name] for name in names] == ["1", "1"]


def test_a_narrow_terminal_folds_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    master, terminal = pty.openpty()
    name = "vit_small_patch16_224_with_a_very_long_name"
    table = new_table("a [b]title[/b] :x:", "name", figures=("figure",))
    table.add_row(name, "[71.7%, 77.1%]")
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        show(table)
    text = os.read(master, 10_000).decode()
    os.close(master)
    assert "\x1b[" in text
    letters = "".join(character for character in text if character.isalnum() or character in "_%")
    assert "withaverylongname" in letters.replace("_", "") or all(part in letters for part in name.split("_"))
    assert "…" not in text
