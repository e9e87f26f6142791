"""What runs and evaluations leave, and models are described by."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import save

from rrm_transfer.evaluation.gallery import read_gallery
from rrm_transfer.evaluation.metrics import read_metrics
from rrm_transfer.evaluation.state import EvaluationState, Found
from rrm_transfer.report.comparison import compare
from rrm_transfer.report.table import result_document
from rrm_transfer.runs.finished import read_finished
from rrm_transfer.teachers.origins import described_by
from rrm_transfer.training.checkpoints import _STATE, _TENSORS, Checkpoint, Checkpoints, _seal
from tests.report import fixtures
from tools.fuzz.damage import changed, damaged
from tools.fuzz.target import Target, written


def _json(name: str, reader: Callable[[Path], object]) -> Callable[[Any, Path], object]:
    def read(document: Any, folder: Path) -> object:
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        return written(name, reader)(text, folder)

    return read


def _documents(document: Any) -> st.SearchStrategy[Any]:
    return changed(document) | damaged(json.dumps(document).encode())


def _metrics() -> st.SearchStrategy[Any]:
    return _documents(json.loads(json.dumps(fixtures.corrupted("student").to_json())))


def _states() -> st.SearchStrategy[Any]:
    found = {"pgd/0/0": vars(Found("0110", 0.5))}
    return _documents({"schema": 1, "conditions": {"seed": 0}, "found": found})


def _evaluation_state(path: Path) -> object:
    state = EvaluationState(path, {"seed": 0})
    state.load()
    return sum(found.lost for found in state.found.values())


def _training_states() -> st.SearchStrategy[Any]:
    state = {"step": 3, "facts": {"seconds": 1.0, "skipped": [], "scalars": {}, "groups": [{"lr": 0.1}]}}
    return st.tuples(st.booleans(), _documents(state), damaged(save({"student/weight": torch.zeros(2)})))


def _training_state(parts: tuple[bool, Any, bytes], folder: Path) -> object:
    sealed, document, tensors = parts
    checkpoint = folder / "student-00000003"
    checkpoint.mkdir()
    (checkpoint / _TENSORS).write_bytes(tensors)
    if sealed and isinstance(document, dict):  # by somebody who means harm
        document = {"sha256": _seal(checkpoint / _TENSORS, document), **document}
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    (checkpoint / _STATE).write_bytes(text)
    warnings: list[str] = []
    found, _ = Checkpoints(folder, "student", warnings.append).newest()
    assert (found is None) == bool(warnings)
    assert found is None or isinstance(found, Checkpoint)
    return found


def _configs() -> st.SearchStrategy[Any]:
    return _documents(
        {
            "architecture": "resnet18",
            "num_classes": 10,
            "label_names": ["a", "b"],
            "model_args": {"in_chans": 3, "img_size": 32},
            "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.2] * 3},
            "rrm": {"architecture": "resnet18", "stem": "cifar"},
        }
    )


def _config(path: Path) -> object:
    for weights in ("model.safetensors", "rrm_student.safetensors"):
        described_by(path, name="a model", weights=path.with_name(weights))
    return None


def _galleries() -> st.SearchStrategy[bytes]:
    return damaged(_gallery_file())


@cache
def _gallery_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.safetensors"
        fixtures.gallery(side=2, count=3).write(path)
        return path.read_bytes()


def _runs() -> st.SearchStrategy[tuple[str, Any]]:
    files = _run_files()

    def of(name: str) -> st.SearchStrategy[tuple[str, Any]]:
        content = files[name]
        whole = st.just(content) if name.endswith(".jsonl") else changed(_parsed(name, content))
        return st.tuples(st.just(name), whole | damaged(content))

    return st.sampled_from(sorted(name for name in files if _is_text(name))).flatmap(of)


def _is_text(name: str) -> bool:
    return name.endswith((".json", ".jsonl", ".yaml"))


def _parsed(name: str, content: bytes) -> Any:
    return yaml.safe_load(content) if name.endswith(".yaml") else json.loads(content)


@cache
def _run_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        run = fixtures.write_run(Path(folder) / "run")
        fixtures.write_evaluation(run, "later", fixtures.corrupted("student"))
        fixtures.metrics().write(run.metrics)
        found = (path for path in run.path.rglob("*") if path.is_file())
        return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in found}


def _tampered(change: tuple[str, Any], folder: Path) -> object:
    name, content = change
    changed_ = {name: content if isinstance(content, bytes) else json.dumps(content).encode()}
    for file, written_ in {**_run_files(), **changed_}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(written_)
    return result_document(read_finished(folder)), compare([folder])


TARGETS = {
    "run-folder": Target(_runs, _tampered),
    "metrics": Target(_metrics, _json("metrics.json", read_metrics)),
    "evaluation-state": Target(_states, _json("state.json", _evaluation_state)),
    "training-state": Target(_training_states, _training_state),
    "model-config": Target(_configs, _json("config.json", _config)),
    "gallery": Target(_galleries, written("gallery.safetensors", read_gallery)),
}
