"""From a teacher's folder to a stock timm student, through the command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from rrm_transfer import load_student
from rrm_transfer.core.files import sha256_of
from rrm_transfer.evaluation.metrics import read_metrics
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.training.passes import Passes
from tests.support import tiny
from tests.support.command import Ended, command

ROW = ["model", "split", "attack", "norm", "eps", "steps", "restarts"]
ROW += ["correct", "count", "accuracy", "low", "high", "kept"]

RELOAD = """
try:
    import rrm_transfer.api
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("rrm_transfer is there")
import timm, torch
model = timm.create_model("local-dir:student", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
x = torch.load("x.pt", weights_only=True)
mean, std = (torch.tensor(config[name]).view(-1, 1, 1) for name in ("mean", "std"))
with torch.no_grad():
    torch.save(model((x - mean) / std), "logits.pt")
"""


def _contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Finished:
    """A run of two epochs, control included."""

    def __init__(self, folder: Path, teacher: Path, data: Path) -> None:
        self.folder, self.teacher, self.data = folder, teacher, data
        self.teacher_before = _contents(teacher)
        self.run = folder / "run"
        options = tiny.recipe_options(teacher, data)
        self.ended: Ended = command("run", *options, "--output", "run", "--json", folder=folder)
        assert self.ended.code == 0, self.ended.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_data: Path) -> Finished:
    return Finished(tmp_path_factory.mktemp("end-to-end"), tiny_teacher, tiny_data)


def test_the_run_folder_holds_exactly_these_files(finished: Finished) -> None:
    assert sorted(_contents(finished.run)) == sorted(
        [
            "README.md",
            "checkpoints/control-00000003/state.json",
            "checkpoints/control-00000003/state.safetensors",
            "checkpoints/control-final/state.json",
            "checkpoints/control-final/state.safetensors",
            "checkpoints/student-00000007/state.json",
            "checkpoints/student-00000007/state.safetensors",
            "checkpoints/student-final/state.json",
            "checkpoints/student-final/state.safetensors",
            "control/config.json",
            "control/model.safetensors",
            "environment.json",
            "gallery.safetensors",
            "log.jsonl",
            "metrics.json",
            "recipe.yaml",
            "report.html",
            "student/config.json",
            "student/model.safetensors",
        ]
    )
    assert not list(finished.run.rglob(".*"))


def test_the_control_can_be_measured_too(finished: Finished) -> None:
    config = json.loads((finished.run / "control" / "config.json").read_text(encoding="utf-8"))
    assert config["rrm"]["model"] == "control"
    assert config["rrm"]["objective"] == {"name": "natural"}
    assert config["rrm"]["teacher"] is None
    options = ["--images", "16", "--steps", "2", "--checks", "none", "--output", "control.json", "--json"]
    ended = command("evaluate", "run/control", *options, folder=finished.folder)
    metrics = json.loads((finished.run / "metrics.json").read_text(encoding="utf-8"))
    clean = [row for row in metrics["rows"] if row["model"] == "control" and row["attack"] == "none"]
    assert ended.document["rows"][:1] == clean


def test_standard_output_is_one_json_document(finished: Finished) -> None:
    document = finished.ended.document
    assert document["schema"] == 1
    assert document["folder"] == "run"
    assert document["load"] == 'timm.create_model("local-dir:run/student", pretrained=True)'
    written = json.loads((finished.run / "metrics.json").read_text(encoding="utf-8"))
    assert {key: document[key] for key in written} == written


def test_metrics_have_their_documented_form(finished: Finished) -> None:
    content: dict[str, Any] = json.loads((finished.run / "metrics.json").read_text(encoding="utf-8"))
    assert {"schema", "rows", "indices", "timing", "checks"} <= set(content)
    rows = content["rows"]
    assert all(list(row) == ROW for row in rows)
    measured = {(row["model"], row["split"], row["attack"], row["eps"]) for row in rows}
    assert measured == {
        ("teacher", "train", "none", None),
        ("teacher", "train", "pgd", 8 / 255),
        *((model, "test", "none", None) for model in ("teacher", "control", "student")),
        *((model, "test", "pgd", 8 / 255) for model in ("teacher", "control", "student")),
    }
    for row in rows:
        assert row["accuracy"] == row["correct"] / row["count"]
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert (row["norm"] is None) == (row["attack"] == "none")
    test = [row for row in rows if row["split"] == "test"]
    assert {row["count"] for row in test} == {16}
    assert len(content["indices"]) == 16
    for model, steps in (("control", 4), ("student", 8)):
        assert content["timing"][model]["steps"] == steps
        assert content["timing"][model]["train_seconds"] > 0
        assert content["timing"][model]["machine"].startswith("1 × ")
        assert content["timing"][model]["load"] >= 0
    assert read_metrics(finished.run / "metrics.json").to_json() == content


def test_the_passes_of_a_run_are_what_a_dry_run_predicts(finished: Finished) -> None:
    found = read_metrics(finished.run / "metrics.json").timing
    assert found["student"]["passes"] == tiny.PASSES
    assert found["control"]["passes"] == Passes(1, 1.0).to_json()


def test_stock_timm_reloads_the_student_without_this_package(finished: Finished, tmp_path: Path) -> None:
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save(x, tmp_path / "x.pt")
    (tmp_path / "student").symlink_to(finished.run / "student")
    script = tmp_path / "reload.py"
    script.write_text(RELOAD, encoding="utf-8")
    # -I leaves out PYTHONPATH and user packages, -S the .pth files of an editable installation.
    packages = sorted({str(Path(module.__file__ or "").parents[1]) for module in (torch, __import__("timm"))})
    program = f"import sys; sys.path += {packages!r}; exec(open({str(script)!r}).read())"
    fresh = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert fresh.returncode == 0, fresh.stderr
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    with torch.no_grad():
        ours = load_student(finished.run)(x)
    torch.testing.assert_close(logits, ours, rtol=1e-6, atol=1e-6)


def test_the_config_says_where_the_student_comes_from(finished: Finished) -> None:
    config = json.loads((finished.run / "student" / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "test_resnet"
    assert config["rrm"]["objective"]["name"] == "rrm"
    assert config["rrm"]["threat"] == {"norm": "Linf", "eps": 8 / 255}
    assert config["rrm"]["teacher"]["sha256"] == sha256_of(finished.teacher / "model.safetensors")


def test_the_teacher_is_as_it_was(finished: Finished) -> None:
    assert _contents(finished.teacher) == finished.teacher_before


def test_the_log_holds_one_object_a_line(finished: Finished) -> None:
    events = [json.loads(line) for line in (finished.run / "log.jsonl").read_text().splitlines()]
    steps = [(event["model"], event["step"]) for event in events if event["event"] == "step"]
    assert steps == [("control", 2), ("control", 4), *(("student", step) for step in (2, 4, 6, 8))]
    assert all(value >= 0 for event in events for value in event.get("losses", {}).values())
    assert {"teacher", "step", "checkpoint", "trained", "evaluated"} == {event["event"] for event in events}


def test_the_environment_names_processes_and_versions(finished: Finished) -> None:
    environment = json.loads((finished.run / "environment.json").read_text(encoding="utf-8"))
    assert environment["processes"] == 1
    assert {"rrm-transfer", "torch", "timm", "accelerate"} <= set(environment["versions"])
    assert str(Path.home()) not in json.dumps(environment)
    assert os.uname().nodename not in environment["platform"]


def test_the_resolved_recipe_leaves_nothing_open_and_reproduces_the_run(finished: Finished) -> None:
    resolved = read_recipe(str(finished.run / "recipe.yaml"))
    for section in (resolved.train, resolved.data, resolved.threat, resolved.control):
        left_open = {name for name, value in section.model_dump().items() if value is None}
        assert left_open <= {"clip_grad", "milestones", "label_map", "ema", "average_epochs", "select_every"}
    again = command(
        "run", "--recipe", "run/recipe.yaml", "--output", "again", "--quiet", folder=finished.folder
    )
    assert again.code == 0, again.err
    first, second = (
        sha256_of(finished.folder / name / "student" / "model.safetensors") for name in ("run", "again")
    )
    assert first == second
    rows = [read_metrics(finished.folder / name / "metrics.json").rows for name in ("run", "again")]
    assert rows[0] == rows[1]


def test_a_finished_run_is_not_overwritten_unasked(finished: Finished) -> None:
    before = _contents(finished.run)
    options = tiny.recipe_options(finished.teacher, finished.data, epochs=1)
    for extra, said in (([], "--overwrite"), (["--resume"], "train.epochs: was 2, is now 1")):
        refused = command("run", *options, "--output", "run", *extra, folder=finished.folder)
        assert refused.code == 2
        assert said in refused.err
    assert _contents(finished.run) == before


def test_the_student_of_a_run_is_a_teacher(finished: Finished) -> None:
    options = tiny.recipe_options(finished.run, finished.data, epochs=1)
    options += ["--skip-teacher-check", "--no-control", "--output", "next", "--json"]
    following = command("run", *options, folder=finished.folder)
    assert following.code == 0, following.err
    assert {row["model"] for row in following.document["rows"]} == {"teacher", "student"}
    before = read_metrics(finished.run / "metrics.json").of("student")
    teacher = [row for row in following.document["rows"] if row["model"] == "teacher"]
    assert [row["correct"] for row in teacher] == [row.correct for row in before]


def test_layers_and_a_reused_classifier_leave_a_stock_student(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    arguments = {
        "student_layers": "[blocks.2, -1]",
        "teacher_layers": "[2, layer4]",
        "layer_weights": "[1, 0.5]",
        "freeze_classifier": "true",
    }
    sets = [part for key, value in arguments.items() for part in ("--set", f"objective.{key}={value}")]
    options = [*tiny.recipe_options(tiny_teacher, tiny_data, student="test_vit", epochs=1), *sets]
    options += ["--objective", "rrm-adv", "--no-control", "--skip-teacher-check", "--json"]
    ended = command("run", *options, "--output", "run", folder=tmp_path)
    assert ended.code == 0, ended.err
    state = load_file(tmp_path / "run" / "checkpoints" / "student-final" / "state.safetensors")
    assert "student/layer_projections.1.weight" in state
    teacher = load_file(tiny_teacher / "model.safetensors")
    assert torch.equal(state["student/head.classifier.weight"], teacher["fc.weight"])
    stock = timm.create_model("test_vit", num_classes=4, in_chans=1, img_size=32)
    assert load_file(tmp_path / "run" / "student" / "model.safetensors").keys() == stock.state_dict().keys()
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (first, *_) = (event["losses"] for event in events if event["event"] == "step")
    assert {"adversarial_layer blocks.2 to 2", "adversarial_layer -1 to layer4"} < set(first)
