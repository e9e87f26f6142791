"""No string of any file that is read is imported, called, or used as a path that leads out of its folder."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from rrm_transfer.core.errors import UserError
from rrm_transfer.exports.robustbench import write_adapter
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.runs.finished import read_finished, read_runs
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.models import facts_about
from rrm_transfer.students.loading import load_student
from rrm_transfer.teachers.inspection import inspect_teacher
from rrm_transfer.teachers.loading import load_teacher
from tests.report import fixtures
from tests.support import tiny
from tests.teachers.forms import cifar_state

MARK = "planted_"
VALUES = (
    f"{MARK}module:factory", f"{MARK}module", "os:abort", f"local-dir:../{MARK}folder", f"../{MARK}folder",
    f"../../{MARK}folder/model.safetensors", f"resnet18.{MARK}module:factory",
)  # fmt: skip
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"}
FILES = {"open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "import"}
# A recipe may name local files as weights and data; whoever takes a stranger's reads it. They are not code.
PATHS = {("teacher", "name"), ("teacher", "weights"), ("student", "weights"), ("data", "name"), ("output",)}

Document = Any
Place = tuple[Any, ...]
_watch: list[str] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watch is None:
        return
    if event in STARTS:
        _watch.append(f"{event} {args!r}")
    elif event in FILES and args and MARK in str(args[0]):
        _watch.append(f"{event} {args[0]}")


@pytest.fixture(scope="module", autouse=True)
def _hooked() -> None:
    sys.addaudithook(_hook)  # for good: it does nothing while nobody watches


@pytest.fixture
def used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the planted values led to; the things that they name are there."""
    global _watch  # noqa: PLW0603  # audit hooks take no arguments
    (tmp_path / "importable").mkdir()
    (tmp_path / "importable" / f"{MARK}module.py").write_text("def factory(): ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "importable")
    for folder in (tmp_path, tmp_path / "work"):
        tiny.write_teacher(folder / f"{MARK}folder", steps=0)
    (tmp_path / "work" / "here").mkdir()
    monkeypatch.chdir(tmp_path / "work" / "here")
    monkeypatch.setattr(os, "abort", lambda: pytest.fail("os.abort was called"))
    _watch = []
    yield _watch
    _watch = None


def places(document: Document, at: Place = ()) -> Iterator[Place]:
    """Finds every string, and every null, which may be a string."""
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from places(value, (*at, key))
    elif isinstance(document, str | None):
        yield at


def planted(document: Document, place: Place, value: str) -> Document:
    changed = copy.deepcopy(document)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def read_as_teacher(folder: Path) -> None:
    _tried(lambda: inspect_teacher(f"local-dir:{folder}"))  # finds, plans and builds as a run does


def read_as_student(folder: Path) -> None:
    _tried(lambda: load_student(folder))


def read_as_run(folder: Path, name: str) -> None:
    _tried(lambda: read_runs([folder]))
    _tried(lambda: read_finished(folder))
    if name == "recipe.yaml":
        _tried(lambda: facts_about(str(folder)))
        _tried(lambda: _surrogate(RunFolder(folder)))
    else:
        _tried(lambda: write_adapter(load_student(folder), read_finished(folder), Path("Adapter.py")))


def _surrogate(run: RunFolder) -> object:
    """Loads a run's teacher as an evaluation's transfer attack does: by what the run's recipe says."""
    teacher = read_recipe(str(run.recipe)).teacher
    assert teacher is not None
    return load_teacher(
        teacher.name, arch=teacher.arch, weights=teacher.weights, normalization=teacher.normalization,
        channels=1, image_size=32,
    )  # fmt: skip


def _tried(read: Callable[[], object]) -> None:
    try:
        read()
    except UserError:
        pass
    except (ArithmeticError, LookupError, AttributeError, TypeError, ValueError):
        pass  # no harm; that the words are missing is told elsewhere


def _run(folder: Path) -> Path:
    fixtures.write_run(folder)
    fixtures.metrics().write(RunFolder(folder).metrics)
    tiny.write_teacher(folder / "student", steps=0)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["teacher"]["name"] = str(folder / "student" / "model.safetensors")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder


def _changes(document: Document) -> Iterator[tuple[Place, str]]:
    found = list(places(document))
    assert len(found) >= 4
    for place in found:
        for value in VALUES:
            yield place, value


@pytest.mark.parametrize("read", [read_as_teacher, read_as_student])
def test_of_a_models_configuration(read: Callable[[Path], None], used: list[str]) -> None:
    folder = tiny.write_teacher(Path("model"), steps=0)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["model_args"] |= {"act_layer": "relu", "norm_layer": "batchnorm2d"}
    config["pretrained_cfg"] |= {
        "url": "",
        "file": "",
        "hf_hub_id": None,
        "hf_hub_filename": None,
    }
    config["rrm"] |= {"stem": None, "architecture": "resnet18", "teacher": {"name": "x"}}
    for place, value in _changes(config):
        file.write_text(json.dumps(planted(config, place, value)), encoding="utf-8")
        read(folder)
        assert not used, (place, value)


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.json", "environment.json", "student/config.json"])
def test_of_a_runs_documents(name: str, used: list[str]) -> None:
    file = _run(Path("run").absolute()) / name
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    for place, value in _changes(document):
        if (len(place) > 1 and place[1] not in (0, "student") and name == "metrics.json") or (
            name == "recipe.yaml" and place[0] not in ("teacher", "student", "data", "output", "name")
        ):
            continue  # rows are read alike, and the other sections' strings are from closed lists
        file.write_text(json.dumps(planted(document, place, value)), encoding="utf-8")
        read_as_run(Path("run"), name)
        allowed = name == "recipe.yaml" and place in PATHS
        found = [what for what in used if not (allowed and what.startswith(("open", "os.")))]
        assert not found, (place, value)
        used.clear()


@pytest.mark.parametrize("name", [f"{MARK}module:factory", f"../{MARK}folder/model", "os:abort"])
def test_of_the_metadata_and_names_of_safetensors(name: str, used: list[str]) -> None:
    folder = tiny.write_teacher(Path("model"), steps=0)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    keys = ("format", "architecture", "arch", "config", "file", "converted_from", "__module__")
    save_file({**tensors, name: torch.zeros(1)}, file, metadata=dict.fromkeys(keys, name))
    read_as_teacher(folder)
    read_as_student(folder)
    _tried(lambda: load_teacher(str(folder), channels=1, image_size=32))
    _tried(lambda: load_teacher(str(file), channels=3, image_size=32, normalization="none"))
    assert not used


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("value", VALUES)
def test_of_a_checkpoints_entries(value: str, zipped: bool, used: list[str]) -> None:
    keys = ("arch", "architecture", "model_name", "args", "config", "checkpoint_path", "mean", "std", "epoch")
    content = {**dict.fromkeys(keys, value), "hyper_parameters": {"model": value, "pretrained": value}}
    torch.save(
        {**content, value: value, "state_dict": cifar_state()}, "a.pt", _use_new_zipfile_serialization=zipped
    )
    teacher = load_teacher("a.pt", channels=3, image_size=32, normalization="none")
    assert teacher.architecture == "resnet18+cifar_stem"
    assert not used


def test_the_watch_sees_what_it_should(used: list[str]) -> None:
    load_teacher(f"../{MARK}folder", channels=1, image_size=32)
    assert any(what.startswith("open") for what in used)
    used.clear()
    __import__(f"{MARK}module")
    assert any(what.startswith("import") for what in used)
    sys.modules.pop(f"{MARK}module")
