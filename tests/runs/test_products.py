"""What a run with averaging and selection hands over, and what it says about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from rrm_transfer import api
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.runs.products import describe_weights
from rrm_transfer.students.student import build_student
from rrm_transfer.training.selection import Score
from tests.support import tiny

SETTINGS: dict[str, Any] = {
    "student": {"name": "test_resnet"},
    "threat": {"eps": 0.1},
    "objective": {"name": "fast-at"},
    "control": {"enabled": False},
    "evaluate": {"steps": 2, "images": 16, "batch_size": 16},
}
TRAIN: dict[str, Any] = {
    "epochs": 4,
    "global_batch_size": 16,
    "lr": 0.02,
    "ema": 0.8,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("exporting") / "run"
    data = {"name": str(tiny_data), "held_out": 0.25, "augmentation": {}}
    api.transfer(build_recipe({**SETTINGS, "train": TRAIN, "data": data, "output": str(folder)}))
    return folder


def _images() -> Tensor:
    images, _ = tiny.quarters(12, 5)
    return F.pad(torch.from_numpy(images)[:, None] / 255, (2,) * 4)


@pytest.mark.parametrize(("folder", "part"), [("student", "average/module."), ("student-best", "best/")])
def test_timm_loads_the_averaged_and_the_selected_weights(folder: str, part: str, run: Path) -> None:
    kept = load_file(run / "checkpoints" / "student-final" / "state.safetensors")
    config = json.loads((run / folder / "config.json").read_text())
    args = {"output_stride": config["model_args"]["output_stride"]}
    trained = build_student("test_resnet", num_classes=4, channels=1, image_size=32, args=args)
    trained.load_state_dict({n.removeprefix(part): v for n, v in kept.items() if n.startswith(part)})
    exported = timm.create_model(f"local-dir:{run / folder}", pretrained=True).eval()
    x = _images()
    with torch.no_grad():
        expected, found = trained.eval()(x).logits, exported(trained.normalize(x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = dict(trained.named_parameters())
    as_trained = [name for name, value in weights.items() if torch.equal(kept[f"student/{name}"], value)]
    assert len(as_trained) < len(weights) / 2


def test_the_last_and_the_best_weights_have_rows_and_a_description(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert [row["model"] for row in metrics["rows"]] == ["student"] * 2 + ["student-best"] * 2
    assert metrics["timing"]["student"]["selection_seconds"] > 0
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    selections = [event for event in events if event["event"] == "selection"]
    assert [event["step"] for event in selections] == [3, 6, 9, 12]
    best = max(selections, key=lambda event: (event["robust"], event["clean"], -event["step"]))
    configs = [json.loads((run / f / "config.json").read_text()) for f in ("student", "student-best")]
    weights = [config["rrm"]["weights"] for config in configs]
    average = "exponential moving average, decay 0.8"
    held_out = {"clean": best["clean"], "robust": best["robust"], "count": 16, "attack": "pgd-10"}
    assert weights[0] == {"step": 12, "of_steps": 12, "average": average}
    assert weights[1] == {"step": best["step"], "of_steps": 12, "average": average, "held_out": held_out}
    card = (run / "README.md").read_text()
    assert f"`student` holds the weights after step 12 of 12 ({average})." in card
    assert f"`student-best` holds those after step {best['step']} ({average})" in card
    assert "| student-best |" in card
    report = (run / "report.html").read_text()
    assert f"student-best: after step {best['step']} of 12" in report
    assert 'class="model student-best"' in report


def test_an_average_over_epochs_is_described_as_far_as_it_had_come() -> None:
    averaged = {"epochs": 5, "average_epochs": 3}
    train = tiny.resolved({"student": {"name": "a"}, "train": averaged}).train

    def average(step: int) -> object:
        return describe_weights(train, 50, Score(step, 1, 1, 2))["average"]

    assert describe_weights(train, 50)["average"] == "mean over 3 epochs"
    assert [average(step) for step in (20, 30, 40, 50)] == [
        "none",
        "none",
        "mean over 2 epochs",
        "mean over 3 epochs",
    ]
