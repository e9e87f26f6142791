"""The rehearsal for a GPU in miniature, on a CPU: every part runs, and tells what it could not find."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.gpu_rehearsal.__main__ import PARTS, rehearse
from tools.gpu_rehearsal.findings import Findings

_SLOW = ("product",)
"""Two whole runs, of which tests have many."""


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=pytest.mark.slow if part in _SLOW else ()) for part in PARTS]
)
def test_a_part_in_miniature(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    found = rehearse([part], out=tmp_path / "out", small=True, keep=tmp_path / "keep")[part]
    assert [row for row in found.rows if "failed" in row] == []
    written = (tmp_path / "out" / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["what"] for line in written] == [row["what"] for row in found.rows]
    if part == "interruption":
        (resumed,) = (row for row in found.rows if row["what"] == "stopped and resumed")
        assert resumed["largest_relative_difference"] == 0


def test_an_error_is_a_row_and_what_there_is_no_time_for_another(tmp_path: Path) -> None:
    findings = Findings(tmp_path / "part.jsonl", seconds=0)
    with findings.row("first", number=1) as row:
        row["second"] = 2
        raise RuntimeError("no such kernel")
    assert list(findings.in_time(["a", "b"])) == []
    assert findings.rows[0] | {"took_s": 0} == {
        "what": "first", "number": 1, "second": 2, "failed": "RuntimeError: no such kernel", "took_s": 0,
    }  # fmt: skip
    assert findings.rows[1]["cases"] == ["a", "b"]
    assert findings.failed
