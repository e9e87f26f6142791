"""A run folder without a run: small, and the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.gallery import Gallery
from rrm_transfer.evaluation.metrics import CorruptionRow, Metrics, Model, Row, row
from rrm_transfer.recipe.loading import build_recipe, dump_recipe
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.training.passes import Passes

EPS = 8 / 255
CLASS_NAMES = ("<script>alert(1)</script>", "ankle boot", 'a "quoted" & <b>bold</b> class')
HOME = "/home/alice/secret"
CORRECT = {
    "teacher": (846, 818, 770, 720),
    "control": (874, 135, 20, 4),
    "student": (752, 645, 540, 402),
}
"""Of 1,000 images: clean, then at ``RADII``."""
RADII = (EPS, 0.05, 0.1)
CHECKS: list[dict[str, Any]] = [
    {"name": "deterministic", "status": "pass", "figure": 0.0, "limit": 1e-4},
    {"name": "more-steps", "status": "suspicious", "figure": 0.034, "limit": 0.02},
    {"name": "square-weaker", "status": "not-run", "figure": None, "limit": 0.02},
]


def rows(model: Model, count: int = 1000, **changes: Any) -> list[Row]:
    """The first images of 1,000 are those that a network gets right."""
    clean, *robust = (correct * count // 1000 for correct in CORRECT[model])
    attack = {"attack": "pgd", "norm": "Linf", "steps": 20, "restarts": 1, **changes}
    return [
        row(model, "test", Proportion(clean, count), kept=range(clean)),
        *(
            row(model, "test", Proportion(correct, count), kept=range(correct), eps=eps, **attack)
            for eps, correct in zip(RADII, robust, strict=True)
        ),
    ]


def metrics(*, checks: list[dict[str, Any]] | None = None, taught: bool = False) -> Metrics:
    models: tuple[Model, ...] = ("control", "student") if taught else ("teacher", "control", "student")
    timing = {
        "teacher": {"train_seconds": 480.0, "passes": Passes(20, 3.0).to_json()},
        "control": {
            "train_seconds": 36.0, "steps": 624, "epochs": 8, "images_per_s": 2222.0,
            "passes": Passes(8, 1.0).to_json(),
        },
        "student": {
            "train_seconds": 82.0, "steps": 1248, "epochs": 16, "images_per_s": 1950.0,
            "passes": Passes(16, 1.5, 4.0).to_json(), "machine": "1 × a GPU", "load": 2.5,
        },
    }  # fmt: skip
    return Metrics(
        [line for model in models for line in rows(model)],
        data="00ff" * 16,
        timing={model: timing[model] for model in models},
        checks=CHECKS if checks is None else checks,
    )


def corrupted(role: Model) -> Metrics:
    """What `evaluate --corruptions` writes, with two corruptions."""
    rows = []
    for name, copies in (("fog", 1), ("jpeg_compression", 1), ("mean", 2)):
        for severity, correct in zip((1, 2, 3, 4, 5, None), (80, 70, 60, 50, 40, 300), strict=True):
            count = copies * (100 if severity else 500)
            low, high = Proportion(copies * correct, count).interval()
            rows.append(
                CorruptionRow(
                    role, "test", name, severity, copies * correct, count, copies * correct / count, low, high
                )
            )
    return Metrics([row(role, "test", Proportion(80, 100))], data="ab" * 32, corruptions=rows)


def gallery(side: int = 8, count: int = 6) -> Gallery:
    generator = torch.Generator().manual_seed(0)
    classes = len(CLASS_NAMES)
    labels = torch.arange(count) % classes
    x = torch.randint(0, 256, (count, 1, side, side), generator=generator) / 255
    sign = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
    logits = torch.nn.functional.one_hot(labels, classes) * 3.0
    fooled = logits.roll(1, 1)
    logits_adv = torch.where((torch.arange(count) % 2 == 0)[:, None], logits, fooled)
    logits[-1] = logits_adv[-1] = fooled[-1]
    x_adv = (x + EPS * sign).clamp(0, 1)
    x_adv[-1] = x[-1]
    return Gallery(
        ThreatModel("Linf", EPS),
        20,
        1,
        CLASS_NAMES,
        torch.arange(count),
        labels,
        x,
        x_adv,
        logits,
        logits_adv,
    )


VERSIONS = {"rrm-transfer": "0.1.0", "torch": "2.15.0", "timm": "1.0.31"}


def environment(**changes: Any) -> dict[str, Any]:
    return {
        "processes": 2,
        "training_images": "1,000, 0123456789abcdef",
        "python": "3.11.7",
        "platform": "Linux-6.1",
        "versions": VERSIONS,
        "devices": ["cpu, 2 cores, 1 threads"],
        **changes,
    }


def network_config(*, taught: bool = False) -> dict[str, Any]:
    """What ``student/config.json`` holds."""
    provenance = {
        "versions": VERSIONS,
        "model": "student",
        "is_teacher": taught,
        "recipe": "tiny",
        "objective": {"name": "rrm", "distance": "relative_l2", "ce_weight": 0.005},
        "threat": {"norm": "Linf", "eps": EPS},
        "dataset": "fashion-mnist-mini",
        "fit": "28x28 padded to 32x32",
        "teacher": None if taught else {"name": f"{HOME}/teachers/t0", "sha256": "ab" * 32},
        "weights": {"step": 640, "of_steps": 640, "average": "none"},
    }
    return {
        "architecture": "test_resnet",
        "num_classes": len(CLASS_NAMES),
        "label_names": CLASS_NAMES,
        "model_args": {"in_chans": 1, "output_stride": 8},
        "pretrained_cfg": {"input_size": [1, 32, 32], "mean": [0.449], "std": [0.226], "license": "MIT"},
        "rrm": provenance,
    }


def write_run(path: Path, *, taught: bool = False) -> RunFolder:
    """Writes what a run folder holds before metrics.json and the report are written."""
    folder = RunFolder(path)
    folder.student.mkdir(parents=True)
    recipe = build_recipe(
        {
            "name": "tiny",
            "description": "A run that never was: <i>markup</i> & more",
            "output": f"{HOME}/runs/tiny",
            "teacher": None if taught else {"name": f"{HOME}/teachers/t0"},
            "student": {"name": "test_resnet", "weights": f"{HOME}/start.safetensors"},
            "data": {"name": "fashion-mnist-mini"},
        }
    )
    folder.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    folder.environment.write_text(json.dumps(environment()), encoding="utf-8")
    config = network_config(taught=taught)
    (folder.student / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for model in ("control", "student"):
        for step in range(20, 641, 20):
            losses = {"ce": 2.3 / (1 + step / 100)}
            if model == "student":
                losses["relative_l2"] = 0.9 / (1 + step / 200)
            facts = {"model": model, "step": step, "epoch": 0, "losses": losses, "lr": 0.1 * (1 - step / 640)}
            write_event(folder, "step", time=1.7e9 + step, **facts)
    gallery().write(folder.gallery)
    return folder


def metadata(card: str) -> dict[str, Any]:
    """Returns what the hub's own classes read in a model card."""
    data: Any = ModelCard(card).data
    content: dict[str, Any] = data.to_dict()
    return content


def write_event(folder: RunFolder, event: str, *, time: float = 1.8e9, **facts: Any) -> None:
    with folder.log_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"event": event, "time": time, **facts}) + "\n")


def write_evaluation(folder: RunFolder, name: str, result: Metrics) -> None:
    folder.evaluations.mkdir(exist_ok=True)
    result.write(folder.evaluations / f"{name}.json")
