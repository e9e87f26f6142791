from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from rrm_transfer.cli.app import app
from tests.evaluation.fixtures import stock_folder
from tests.support.command import together

COMMON = ["--dataset", "fashion-mnist-mini", "--images", "40", "--batch-size", "8", "--eps", "0.03"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock_folder(tmp_path_factory.mktemp("model"))


def evaluate(folder: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", f"local-dir:{folder}", *COMMON, *options])


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "timing": None}


def test_json_is_one_document_and_nothing_else(folder: Path) -> None:
    result = evaluate(folder, "--attack", "none,pgd,noise", "--steps", "3", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert [row["attack"] for row in document["rows"]] == ["none", "pgd", "noise", "worst-case"]
    assert document["rows"][0]["eps"] is None
    assert {"name", "status", "figure", "limit"} == set(document["checks"][0])
    assert "first estimate" in result.stderr


def test_people_see_attacks_and_checks(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.json"
    result = evaluate(folder, "--steps", "3", "--quiet", "--output", str(output))
    assert result.exit_code == 0
    for words in ("accuracy on 40 test images", "Linf 0.03", "logit-scale", "not run: more-steps", "x.json"):
        assert words in result.stdout
    assert result.stderr == ""
    assert output.is_file()


def test_strict_checks_exit_with_three_where_one_is_suspicious(folder: Path, tmp_path: Path) -> None:
    tempered = stock_folder(tmp_path / "tempered")
    weights = load_file(tempered / "model.safetensors")
    weights["fc.weight"] *= 500
    weights["fc.bias"] *= 500
    save_file(weights, tempered / "model.safetensors", {"format": "pt"})
    options = ["--steps", "3", "--json"]
    loose, strict = evaluate(tempered, *options), evaluate(tempered, *options, "--strict-checks")
    assert (loose.exit_code, strict.exit_code) == (0, 3)
    checks = {check["name"]: check["status"] for check in json.loads(strict.stdout)["checks"]}
    assert checks["logit-scale"] == "suspicious"
    assert evaluate(folder, *options, "--strict-checks").exit_code == 0


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_two_processes_find_what_one_finds(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    options = ["--attack", "pgd,apgd-ce,noise", "--steps", "4", "--curve"]
    alone = evaluate(folder, *options, "--json")
    output = tmp_path / "out" / "x.json"
    output.parent.mkdir()
    shared = ["evaluate", f"local-dir:{folder}", *COMMON, *options, "--json", "--output", str(output)]
    first, second = (process.end() for process in together(shared, folder=tmp_path))
    assert (first.code, second.code, second.out) == (0, 0, ""), first.err + second.err
    assert without_times(first.document) == without_times(json.loads(alone.stdout))
    assert without_times(json.loads(output.read_text())) == without_times(json.loads(alone.stdout))
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_ten_random_moments_it_ends_with_the_same_figures(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    options = ["--attack", "pgd,apgd-ce,apgd-t,fab-t", "--steps", "20", "--curve"]
    started = time.monotonic()
    expected = without_times(json.loads(evaluate(folder, *options, "--json").stdout))
    whole = time.monotonic() - started
    output = tmp_path / "x.json"
    command = [
        sys.executable, "-m", "rrm_transfer", "evaluate", f"local-dir:{folder}", *COMMON, *options,
        "--output", str(output), "--resume", "--quiet",
    ]  # fmt: skip
    moments = random.Random(0)
    kills = 0
    while not output.exists():
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        state = tmp_path / "x.state.json"
        before = state.stat().st_mtime_ns if state.exists() else 0
        # Importing takes longer than the evaluation: the clock starts at the first new result.
        while process.poll() is None and not (state.exists() and state.stat().st_mtime_ns > before):
            time.sleep(0.02)
        time.sleep(moments.uniform(0, whole / 12))
        if kills < 10 and process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        assert process.wait(timeout=300) in (0, -signal.SIGKILL)
    assert without_times(json.loads(output.read_text(encoding="utf-8"))) == expected
    assert kills == 10
