"""Are our attacks those of the libraries? Compares them with one direct call, image by image, on real data.

    python -m tools.benchmarks.parity MODEL [--dataset D] [--images 200] [--eps 8/255]
    python -m tools.benchmarks.parity MODEL --attack pgd --images 1000 [--output FILE.json]

MODEL is what ``rrm-transfer evaluate`` takes. AutoAttack is compared with pyautoattack: code 1 where a single
image differs. PGD is compared with foolbox (``pip install foolbox``), from the same starts, with as many
steps of the same size: code 1 where the paired 95 % interval of the difference does not hold 0. Foolbox
looks at last points alone, ours at every one, so that ours may find a few more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rrm_transfer.attacks.ascent import frozen
from rrm_transfer.attacks.attack import Victims
from rrm_transfer.attacks.catalogue import STEPS, build_attack
from rrm_transfer.attacks.pgd import default_step_size
from rrm_transfer.core.files import write_text
from rrm_transfer.core.quantities import Proportion, format_eps, parse_fraction
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.core.weights.identity import weights_hash
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.evaluation.evaluator import (
    Evaluator,
    Measurement,
    strict_float32,
)
from rrm_transfer.evaluation.metrics import row
from rrm_transfer.evaluation.paired import difference
from rrm_transfer.recipe.schema import TeacherSection
from rrm_transfer.runs.models import load_with_data
from rrm_transfer.runtime.context import Context


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--attack", choices=["autoattack", "pgd"], default="autoattack")
    parser.add_argument("--dataset")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--eps", type=parse_fraction)
    parser.add_argument("--norm", choices=["Linf", "L2"], default="Linf")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()

    context = Context.begin()
    known, data, model = load_with_data(TeacherSection(name=given.model), given.dataset, context)
    threat = ThreatModel(given.norm, known.eps_in(given.norm) if given.eps is None else given.eps)
    images = data.images.test.balanced(given.images, skip=given.skip)
    measurement = Measurement(data.image_size, given.batch_size, given.seed, context)
    tool = Evaluator(model, images, measurement, model="student", split="test")
    attack = build_attack(given.attack, threat, seed=given.seed, classes=data.images.num_classes)
    library, call = {"autoattack": ("pyautoattack", _autoattack), "pgd": ("foolbox", _pgd)}[given.attack]
    started = time.perf_counter()
    ours = set(tool.survivors(attack))
    between = time.perf_counter()
    (batch,) = evaluation_batches(images, fit=data.fit, batch_size=len(images), device=tool.runtime.device)
    with strict_float32(batch.x.device), frozen(tool.network):
        flags = call(tool, Victims(batch.index, batch.x, batch.y), threat)
    theirs = set(flags.nonzero().flatten().tolist())
    ended = time.perf_counter()

    rows = [
        row("student", "test", Proportion(len(kept), len(images)), kept=kept, attack=given.attack,
            norm=threat.norm, eps=threat.eps, steps=attack.steps)
        for kept in (ours, theirs)
    ]  # fmt: skip
    low, high = difference(*rows)[1:]
    for name, found, seconds in (
        ("rrm-transfer", rows[0], between - started), (library, rows[1], ended - between)
    ):  # fmt: skip
        print(f"{name}: {found.correct}/{found.count} ({found.low:.1%} to {found.high:.1%}), {seconds:.0f} s")
    print(
        f"{attack.name} {given.norm} {format_eps(threat.eps)}: {len(ours ^ theirs)} images differ; "
        f"difference {low:+.2%} to {high:+.2%}"
    )
    if given.output is not None:
        record = {
            "model": Path(given.model).name,
            "weights_sha256": weights_hash([*model.named_parameters(), *model.named_buffers()]),
            "data": images.fingerprint,
            "dataset": data.images.name,
            "seed": given.seed,
            "versions": {name: version(name) for name in ("rrm-transfer", "torch", library)},
            "images_that_differ": len(ours ^ theirs),
            "difference_low": low,
            "difference_high": high,
            "rows": dict(zip(("rrm-transfer", library), map(asdict, rows), strict=True)),
        }
        write_text(given.output, json.dumps(record, indent=1) + "\n")
    return int(ours != theirs if given.attack == "autoattack" else not low <= 0 <= high)


def _autoattack(tool: Evaluator, victims: Victims, threat: ThreatModel) -> Tensor:
    import pyautoattack

    library: Any = pyautoattack.AutoAttack(
        tool.logits, norm=threat.norm, eps=threat.eps, seed=tool.measurement.seed, version="standard",
        device=victims.x.device,
    )  # fmt: skip
    x_adv, _ = library.run_standard_evaluation(victims.x, victims.y, batch_size=tool.measurement.batch_size)
    return _kept(tool, x_adv, victims.y)


def _pgd(tool: Evaluator, victims: Victims, threat: ThreatModel) -> Tensor:
    import eagerpy as ep
    import foolbox

    base: Any = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD}[threat.norm]
    kept = []
    for index, x, y in zip(
        *(torch.split(part, tool.measurement.batch_size) for part in victims), strict=True
    ):
        start = threat.random_start(x, Randomness(tool.measurement.seed, 0, index), "pgd/0")

        class FromOurStart(base):  # type: ignore[misc]
            def get_random_start(self, x0: Any, epsilon: float, start: Tensor = start) -> Any:
                return x0 + ep.astensor(start)

        library = foolbox.PyTorchModel(_Logits(tool).eval(), bounds=(0, 1), device=x.device)
        attack = FromOurStart(abs_stepsize=default_step_size(threat.eps, STEPS), steps=STEPS)
        kept.append(_kept(tool, attack.run(library, x, y, epsilon=threat.eps), y))
    return torch.cat(kept) & _kept(tool, victims.x, victims.y)


class _Logits(nn.Module):
    def __init__(self, tool: Evaluator) -> None:
        super().__init__()
        self._tool = tool

    def forward(self, x: Tensor) -> Tensor:
        return self._tool.logits(x)


@torch.no_grad()
def _kept(tool: Evaluator, x: Tensor, y: Tensor) -> Tensor:
    parts = torch.split(x, tool.measurement.batch_size)
    return torch.cat([tool.logits(part).argmax(1) for part in parts]) == y


if __name__ == "__main__":
    sys.exit(main())
