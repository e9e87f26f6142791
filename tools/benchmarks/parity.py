"""Is our AutoAttack the library's? Compares it with one direct call, image by image, on real data.

    python -m tools.benchmarks.parity MODEL [--dataset D] [--images 200] [--eps 8/255]

MODEL is what ``rrm-transfer evaluate`` takes. Ends with code 1 where a single image differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch
from torch import Tensor

from rrm_transfer.attacks.catalogue import build_attack
from rrm_transfer.core.quantities import Proportion, format_eps, parse_fraction
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.evaluation.evaluator import (
    Evaluator,
    Measurement,
    strict_float32,
    without_weight_gradients,
)
from rrm_transfer.recipe.schema import TeacherSection
from rrm_transfer.runs.models import load_with_data
from rrm_transfer.runtime.context import Context


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--dataset")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--eps", type=parse_fraction)
    parser.add_argument("--norm", choices=["Linf", "L2"], default="Linf")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    context = Context.begin()
    known, data, model = load_with_data(TeacherSection(name=given.model), given.dataset, context)
    threat = ThreatModel(given.norm, known.eps_in(given.norm) if given.eps is None else given.eps)
    images = data.images.test.balanced(given.images)
    measurement = Measurement(data.image_size, given.batch_size, given.seed, context)
    tool = Evaluator(model, images, measurement, model="student", split="test")
    attack = build_attack("autoattack", threat, seed=given.seed, classes=data.images.num_classes)
    started = time.perf_counter()
    ours = set(tool.survivors(attack))
    between = time.perf_counter()
    (batch,) = evaluation_batches(images, fit=data.fit, batch_size=len(images), device=tool.runtime.device)
    directly = _directly(tool, batch.x, batch.y, threat, given.batch_size, given.seed)
    ended = time.perf_counter()

    for name, survivors, seconds in (
        ("rrm-transfer", ours, between - started), ("pyautoattack", directly, ended - between)
    ):  # fmt: skip
        low, high = Proportion(len(survivors), len(images)).interval()
        print(f"{name}: {len(survivors)}/{len(images)} ({low:.1%} to {high:.1%}), {seconds:.0f} s")
    print(f"{attack.name} {given.norm} {format_eps(threat.eps)}: {len(ours ^ directly)} images differ")
    return int(ours != directly)


def _directly(
    tool: Evaluator, x: Tensor, y: Tensor, threat: ThreatModel, batch_size: int, seed: int
) -> set[int]:
    import pyautoattack

    with strict_float32(x.device), without_weight_gradients(tool.network):
        library: Any = pyautoattack.AutoAttack(
            tool.logits, norm=threat.norm, eps=threat.eps, seed=seed, version="standard", device=x.device
        )
        x_adv, _ = library.run_standard_evaluation(x, y, batch_size=batch_size)
        with torch.no_grad():
            kept = torch.cat([tool.logits(part).argmax(1) for part in x_adv.split(batch_size)]) == y
    return set(kept.nonzero().flatten().tolist())


if __name__ == "__main__":
    sys.exit(main())
