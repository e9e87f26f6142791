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
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.evaluation.evaluator import (
    Evaluator,
    balanced_sample,
    strict_float32,
    without_weight_gradients,
)
from rrm_transfer.runs.evaluated import load_network
from rrm_transfer.runs.models import facts_about
from rrm_transfer.runs.setup import automatic_size
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.runtime.progress import Narrator


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

    known = facts_about(given.model)
    dataset = given.dataset or known.dataset
    if dataset is None:
        parser.error("the data set is not known: --dataset D")
    data = load_dataset_by_name(dataset)
    fit = choose_fit(data.test.size, known.image_size or automatic_size(data))
    model = load_network(given.model, data, fit, Narrator())
    threat = ThreatModel(given.norm, known.eps_in(given.norm) if given.eps is None else given.eps)
    sample = balanced_sample(data.test.labels, given.images)
    images = data.test if sample is None else data.test.select(sample)

    tool = Evaluator(
        model, images, role="student", split="test", fit=fit, batch_size=given.batch_size, runtime=Runtime(),
        narrator=Narrator(),
    )  # fmt: skip
    attack = build_attack("autoattack", threat, seed=given.seed, classes=data.num_classes)
    started = time.perf_counter()
    ours = set(tool.survivors(attack))
    between = time.perf_counter()
    (batch,) = evaluation_batches(images, fit=fit, batch_size=len(images), device=tool.runtime.device)
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

    with strict_float32(x.device), without_weight_gradients(tool.model):
        library: Any = pyautoattack.AutoAttack(
            tool.logits, norm=threat.norm, eps=threat.eps, seed=seed, version="standard", device=x.device
        )
        x_adv, _ = library.run_standard_evaluation(x, y, batch_size=batch_size)
        with torch.no_grad():
            kept = torch.cat([tool.logits(part).argmax(1) for part in x_adv.split(batch_size)]) == y
    return set(kept.nonzero().flatten().tolist())


if __name__ == "__main__":
    sys.exit(main())
