"""A student as RobustBench takes it: a module of its own, its weights, and the claim.

RobustBench (Croce et al., NeurIPS 2021 Datasets and Benchmarks, arXiv 2010.09670) wants a model that maps
pixels in [0, 1] to logits, and a JSON file for its leaderboard.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_file, write_text
from rrm_transfer.core.quantities import format_eps
from rrm_transfer.evaluation.metrics import Row
from rrm_transfer.runs.finished import FinishedRun
from rrm_transfer.students.loading import LoadedStudent

_DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet": "imagenet", "imagenet-1k": "imagenet"}

_MODULE = '''"""{architecture} for RobustBench: pixels in [0, 1], (batch, {shape}), to logits.

Needs torch, timm and safetensors, and {weights} beside this file.

To submit it (https://github.com/RobustBench/robustbench, "Adding a new model"):
1. `python {file}` runs AutoAttack on all test images as RobustBench does (pip install robustbench).
2. Complete {claim}: what is null there; the figures are those of step 1.
3. Put the weights where they can be downloaded, and open a pull request with the claim under model_info,
   and this model in RobustBench's model zoo.
"""

from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn

MEAN = {mean}
STD = {std}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = timm.create_model({architecture!r}, pretrained=False, **{args})
{stem}        self.register_buffer("mean", torch.tensor(MEAN).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, -1, 1, 1), persistent=False)

    def forward(self, x):
        return self.network((x - self.mean) / self.std)


def load_model(weights=Path(__file__).with_name({weights!r})):
    model = Model()
    model.load_state_dict(load_file(weights))
    return model.eval()


if __name__ == "__main__":
    from robustbench.eval import benchmark

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model().to(device)
    benchmark(model, model_name={name!r}, dataset={dataset!r}, threat_model={norm!r}, eps={eps},
              device=device, to_disk=True)
'''

_STEM = """        width = self.network.bn1.num_features
        self.network.conv1 = nn.Conv2d({channels}, width, 3, padding=1, bias=False)
        self.network.maxpool = nn.Identity()
"""


def adapter_files(file: Path, run: Path) -> tuple[Path, Path, Path]:
    """Returns what `write_adapter` writes: ``NAME.py``, ``NAME.safetensors`` and ``NAME.json``.

    Raises:
        UserError: The file's name is not one of a Python module, or it would stand in the run's folder.
    """
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UserError("The adapter is a Python module.", received=file, allowed="a name such as Me2026.py")
    if file.resolve().is_relative_to(run.resolve()):
        raise UserError(
            "The adapter would stand among the run's own files.", received=file, hint="another --output"
        )
    return file, file.with_suffix(".safetensors"), file.with_suffix(".json")


def write_adapter(student: LoadedStudent, run: FinishedRun, file: Path) -> None:
    """Writes the module, its weights and its claim.

    Args:
        student: Of the run.
        run: The run.
        file: ``NAME.py``.

    Raises:
        UserError: The name is none of ``adapter_files``, or the architecture none of timm's.
    """
    file, weights, claim = adapter_files(file, run.folder)
    if not timm.is_model(student.architecture):  # the module names it, and may name nothing else
        raise UserError("The student's architecture is none of timm's.", received=student.architecture)
    channels, *_ = shape = run.student.pretrained_cfg.input_size
    args = {"num_classes": run.student.classes, "in_chans": channels, **(run.student.model_args or {})}
    dataset = _dataset(run.provenance.dataset)
    text = _MODULE.format(
        architecture=student.architecture,
        shape=", ".join(map(str, shape)),
        file=file.name,
        weights=weights.name,
        claim=claim.name,
        mean=list(student.normalization.mean),
        std=list(student.normalization.std),
        args=args,
        stem=_STEM.format(channels=channels) if run.provenance.stem else "",
        name=file.stem,
        dataset=dataset,
        norm=run.threat.norm,
        eps=run.threat.eps,
    )
    state = {f"network.{key}": value.clone() for key, value in student.model.state_dict().items()}
    with replacing_file(weights) as temporary:
        save_file(state, temporary)
    write_text(claim, json.dumps(_claim(run, dataset), indent=2) + "\n")
    write_text(file, text)


def _dataset(name: str) -> str:
    """Returns RobustBench's name of a data set; one that it does not have keeps its own."""
    plain = name.partition("@")[0].rpartition("/")[2]
    return _DATASETS.get(plain, plain)


def _claim(run: FinishedRun, dataset: str) -> dict[str, Any]:
    rows = [
        row
        for _, metrics in run.measurements()
        if metrics.measured_on(run.provenance.dataset)
        for row in metrics.of(run.model)
        if row.split == "test"
    ]
    threat = (run.threat.norm, run.threat.eps)
    attacked = [row for row in rows if row.attack == "autoattack" and (row.norm, row.eps) == threat]
    strongest = max(attacked, key=lambda row: row.count, default=None)
    clean = [row for row in rows if row.attack == "none" and strongest and row.count == strongest.count]
    return {
        "link": None,
        "name": None,
        "authors": None,
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": None,
        "architecture": run.architecture,
        "eps": format_eps(run.threat.eps),
        "clean_acc": _percent(clean[0]) if clean else None,
        "reported": _percent(strongest) if strongest else None,
        "autoattack_acc": _percent(strongest) if strongest else None,
    }


def _percent(row: Row) -> str:
    return f"{100 * row.accuracy:.2f}"
