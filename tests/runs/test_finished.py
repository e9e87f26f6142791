"""A run folder that somebody changed is told as such, whatever was changed in it and whoever reads it."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.metrics import Metrics, row
from rrm_transfer.runs.finished import read_finished, read_runs
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import build_student
from tests.cli.conftest import Cli, cli
from tests.report import fixtures

__all__ = ["cli"]

WRONG: tuple[Any, ...] = (
    None, "text", "\ud800", "", -1, 3, 0.5, True, 10**400, float("nan"), float("inf"), 1e300, [], {}, [None],
    {"a": None}, [[]] * 3,
)  # fmt: skip
"""One of these stands in the place of one value."""
FILES = (
    "metrics.json", "evaluations/later.json", "recipe.yaml", "student/config.json", "environment.json",
    "log.jsonl",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with little in it, but something of everything, and a student that can be loaded."""
    folder = fixtures.write_run(tmp_path_factory.mktemp("finished") / "run")
    few = folder.log_file.read_text(encoding="utf-8").splitlines()[30:34]
    folder.log_file.write_text("".join(f"{line}\n" for line in few), encoding="utf-8")
    fixtures.write_event(
        folder,
        "selection",
        model="student",
        step=640,
        clean=0.5,
        robust=0.25,
        count=100,
        eps=0.1,
        norm="Linf",
    )
    student = build_student(
        "test_resnet", num_classes=3, channels=1, image_size=32, args={"output_stride": 8}, seed=1
    )
    facts = fixtures.network_config()["rrm"]
    save_student(
        student, folder.student, sample=torch.rand(2, 1, 32, 32), class_names=fixtures.CLASS_NAMES,
        license="MIT",         rrm=facts,
    )  # fmt: skip
    whole = fixtures.metrics()
    few_rows = [line for line in whole.rows if line.eps in (None, fixtures.EPS)]
    Metrics(few_rows, data=whole.data, timing=whole.timing, checks=whole.checks).write(folder.metrics)
    later = fixtures.corrupted("student")
    attacked = row(
        "student", "test", Proportion(40, 100), kept=range(40), attack="worst-case", norm="Linf", eps=0.1
    )
    conditions = {
        "attacks": ["pgd"],
        "steps": 20,
        "restarts": 1,
        "surrogate": None,
        "dataset": "fashion-mnist-mini",
    }
    survivors = {"autoattack Linf 8/255": {"none": 90}}
    fixtures.write_evaluation(
        folder,
        "later",
        Metrics(
            [*later.rows, attacked], data=later.data, corruptions=later.corruptions[-7:],
            conditions=conditions,             survivors=survivors, indices=[1, 2],
        ),
    )  # fmt: skip
    return folder.path


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields where values stand: all keys of mappings, the first and the last entry of lists."""
    keys = (
        list(node)
        if isinstance(node, dict)
        else sorted({0, len(node) - 1})
        if isinstance(node, list) and node
        else []
    )
    for key in keys:
        yield (*path, key)
        yield from _places(node[key], (*path, key))


def _load(file: Path) -> Any:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)


def _dump(file: Path, content: Any) -> None:
    if file.suffix == ".jsonl":
        lines = content if isinstance(content, list) else [content]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    else:  # JSON is YAML, but for its numbers that are none
        file.write_text(json.dumps(content), encoding="utf-8")


def _changes(run: Path, name: str) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """Yields every place of a file with each wrong value in it, and without what stood there."""
    whole = _load(run / name)
    for path in _places(whole):
        for wrong in (*WRONG, ...):
            content = copy.deepcopy(whole)
            node = content
            for key in path[:-1]:
                node = node[key]
            if wrong is ...:
                del node[path[-1]]
            else:
                node[path[-1]] = wrong
            yield path, "nothing" if wrong is ... else repr(wrong)[:20], content


def _copy(run: Path, target: Path) -> Path:
    return Path(shutil.copytree(run, target))


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "compare": lambda run: ["compare", str(run)],
    "push": lambda run: ["push", str(run), "--repo", "user/name", "--dry-run"],
    "export": lambda run: ["export", str(run), "--format", "robustbench", "--output", "Me.py"],
}


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FILES)
def test_any_change_is_harmless_or_one_message(
    name: str, few: bool, run: Path, cli: Cli, tmp_path: Path
) -> None:
    """What the reader takes, the commands can work with: tried on some, since each draws a report."""
    changed, chance = _copy(run, tmp_path / "changed"), random.Random(0)
    taken, changes = [], list(_changes(run, name))
    for place, wrong, content in chance.sample(changes, 60) if few else changes:
        _dump(changed / name, content)
        try:
            read_finished(changed)
        except UserError as problem:
            told = problem.what
            # A folder whose environment.json tells no version of ours is none of a run's.
            foreign = name == "environment.json" and told == "No finished run here."
            named = "changed or is damaged" in told and Path(name).name in told
            assert foreign or named, (place, wrong)
        else:
            taken.append((place, wrong, content))
    assert taken
    for place, wrong, content in chance.sample(taken, min(1 if few else 20, len(taken))):
        _dump(changed / name, content)
        for command, arguments in COMMANDS.items():
            ended = cli(*arguments(changed))
            assert ended.code in (0, 2), (command, place, wrong, ended.err)
            assert "Traceback" not in ended.err


def _raw(text: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WHOLE: dict[str, Callable[[Path], object]] = {
    "empty": _raw(b""),
    "no text": _raw(b"\xff\xfe\x00"),
    "another form": _raw(b"[1, 2\n"),
    "a list": _raw(b"[]\n"),
    "deep": _raw(b"[" * 100_000 + b"\n"),
    "fifo": _fifo,
    "folder": _folder,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_that_is_something_else_is_named(
    name: str, kind: str, run: Path, cli: Cli, tmp_path: Path
) -> None:
    changed = _copy(run, tmp_path / "changed")
    WHOLE[kind](changed / name)
    if (name, kind) == ("log.jsonl", "empty"):
        assert read_finished(changed).events == ()
        return
    if name.startswith("evaluations/") and kind == "a list":  # without rows it is a user's own file
        assert read_finished(changed).evaluations == {}
        return
    for arguments in COMMANDS.values():
        ended = cli(*arguments(changed))
        assert ended.code == 2
        told = " ".join(ended.err.split())
        # A folder is a run's by its environment.json, and a finished one's by its metrics.json.
        unfinished = name == "environment.json" or (
            name in ("metrics.json", "recipe.yaml") and kind in ("fifo", "folder")
        )
        if not (unfinished and ("inished" in told or "Not a run folder" in told)):
            assert "changed or is damaged" in told
            assert Path(name).name in told


def test_a_damaged_run_is_left_out_of_a_comparison_with_its_reason(run: Path, tmp_path: Path) -> None:
    _copy(run, tmp_path / "runs" / "good")
    bad = RunFolder(_copy(run, tmp_path / "runs" / "bad"))
    content = json.loads(bad.metrics.read_text(encoding="utf-8"))
    content["rows"][0]["count"] = "many"
    bad.metrics.write_text(json.dumps(content), encoding="utf-8")
    runs, left_out = read_runs([tmp_path / "runs"])
    assert [run.folder.name for run in runs] == ["good"]
    assert [(folder.name, "rows.0.count holds 'many'" in reason) for folder, reason in left_out] == [
        ("bad", True)
    ]


def test_a_run_tells_what_it_is(run: Path) -> None:
    found = read_finished(run)
    assert (found.noun, found.form, found.architecture, found.student.classes) == (
        "student",
        "stock",
        "test_resnet",
        3,
    )
    assert found.load_line == f'timm.create_model("local-dir:{run}/student", pretrained=True)'
    assert found.machine == "2 × cpu, 2 cores, 1 threads"
    assert fixtures.HOME not in repr((found.provenance, found.written_recipe))
    assert {event.event for event in found.events} == {"step", "selection"}


def test_the_line_that_a_killed_process_was_writing_is_no_damage(run: Path, tmp_path: Path) -> None:
    changed = RunFolder(_copy(run, tmp_path / "changed"))
    with changed.log_file.open("a", encoding="utf-8") as log:
        log.write('{"event": "st')
    assert read_finished(changed.path).events == read_finished(run).events
