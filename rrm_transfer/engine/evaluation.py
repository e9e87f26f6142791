"""Clean and robust accuracy: float32, evaluation mode, every image counted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rrm_transfer.attacks.pgd import pgd
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import ImageSet
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.engine.metrics import Row, row
from rrm_transfer.engine.progress import Narrator
from rrm_transfer.engine.runtime import Runtime


@dataclass(frozen=True)
class PGDSpec:
    """One PGD measurement."""

    threat: ThreatModel
    steps: int
    restarts: int


def balanced_sample(labels: Tensor, count: int | None) -> list[int] | None:
    """Returns the positions of ``count`` images, the first ones of each class, in their own order.

    Args:
        labels: Class indices, ``(N,)``.
        count: None or at least N: all images, returned as None.
    """
    if count is None or count >= len(labels):
        return None
    # The n-th image of every class comes before the (n+1)-th of any.
    occurrence = torch.zeros_like(labels)
    for value in set(labels.tolist()):
        members = (labels == value).nonzero().flatten()
        occurrence[members] = torch.arange(len(members))
    order = torch.argsort(occurrence, stable=True)
    return sorted(int(position) for position in order[:count])


def measure(
    model: nn.Module,
    images: ImageSet,
    specs: Sequence[PGDSpec],
    *,
    role: str,
    split: str,
    fit: Fit,
    batch_size: int,
    seed: int,
    runtime: Runtime,
    narrator: Narrator,
) -> list[Row]:
    """Measures clean accuracy and every attack of ``specs``; the processes share the images.

    Args:
        model: Maps pixels in [0, 1] to ``Outputs``.
        images: What to measure on.
        specs: Attacks.
        role: Of the model, for the rows.
        split: Name of the split, for the rows.
        fit: How images are brought to the input size.
        batch_size: Images per forward pass and process.
        seed: Of random starts.
        runtime: Processes and devices.
        narrator: Shows progress.

    Returns:
        One row for clean accuracy, then one for each of ``specs``.
    """
    model = model.to(runtime.device).eval()
    share = images.select(list(range(runtime.rank, len(images), runtime.world)))
    survivors: list[list[bool]] = [[] for _ in range(1 + len(specs))]

    def logits(x: Tensor) -> Tensor:
        result: Tensor = model(x).logits
        return result

    with narrator.task(f"{role}: evaluation", len(share)) as task:
        for batch in evaluation_batches(share, fit=fit, batch_size=batch_size, device=runtime.device):
            randomness = Randomness(seed, 0, batch.index)
            for number, spec in enumerate((None, *specs)):
                x = batch.x
                if spec is not None:
                    x = pgd(
                        logits,
                        x,
                        batch.y,
                        threat=spec.threat,
                        steps=spec.steps,
                        restarts=spec.restarts,
                        randomness=randomness,
                    )
                with torch.no_grad():
                    survivors[number] += (logits(x).argmax(1) == batch.y).tolist()
            task.update(len(survivors[0]), {"clean": f"{sum(survivors[0]) / len(survivors[0]):.1%}"})

    rows = []
    for flags, spec in zip(survivors, (None, *specs), strict=True):
        everyone = runtime.gather(flags)
        if len(everyone) != len(images):
            raise RuntimeError(f"{len(everyone)} results for {len(images)} images")
        rows.append(row(role, split, Proportion(sum(everyone), len(everyone)), **_facts(spec)))
    return rows


def _facts(spec: PGDSpec | None) -> dict[str, Any]:
    if spec is None:
        return {}
    threat = spec.threat
    return {
        "attack": "pgd",
        "norm": threat.norm,
        "eps": threat.eps,
        "steps": spec.steps,
        "restarts": spec.restarts,
    }
