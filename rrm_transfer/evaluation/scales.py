"""Accuracy on a scale: of eps, up to where the network only guesses, and of the severity of corruptions.

And the scale the other way round: at which eps each image falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from rrm_transfer.attacks.attack import CLEAN, Attack
from rrm_transfer.attacks.corruptions import CORRUPTIONS, SEVERITIES, corruption_attack
from rrm_transfer.core.quantities import wilson_interval
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.evaluator import Evaluator
from rrm_transfer.evaluation.metrics import MEAN, CorruptionRow, MinimumRow, Row

_FRACTIONS = (0.25, 0.5, 1.0)
"""Radii below and at the threat model's, in units of it; above, each is twice the one before."""


def eps_curve(
    evaluator: Evaluator, threat: ThreatModel, attack: Callable[[ThreatModel], Attack], *, classes: int
) -> list[Row]:
    """Measures accuracy at growing radii until it is at most ``1 / classes``.

    The last radius is in any case one at which every image can be turned into every other.

    Args:
        evaluator: The network and the images.
        threat: Its eps sets the scale.
        attack: The attack within a ball.
        classes: Of the data.

    Returns:
        One row for each radius, ascending from 0.
    """
    nothing = attack(threat.with_eps(0.0))
    rows = [replace(evaluator.row(CLEAN), attack=nothing.name, norm=threat.norm, eps=0.0,
                    steps=nothing.steps, restarts=nothing.restarts)]  # fmt: skip
    for eps in _radii(threat, _diameter(evaluator, threat)):
        rows.append(evaluator.row(attack(threat.with_eps(eps))))
        if rows[-1].accuracy <= 1 / classes:
            break
    return rows


def measure_minima(
    evaluator: Evaluator, threat: ThreatModel, attack: Callable[[ThreatModel], Attack]
) -> MinimumRow:
    """Looks for each image's smallest perturbation, as far as one image is from any other.

    Args:
        evaluator: The network and the images.
        threat: Its norm is that of the perturbations.
        attack: One that seeks the smallest within a limit.
    """
    limit = threat.with_eps(_diameter(evaluator, threat))
    search = attack(limit)
    return MinimumRow.of(
        evaluator.model, evaluator.split, attack=search.name, limit=limit, steps=search.steps or 0,
        sizes=evaluator.sizes(search),
    )  # fmt: skip


def _radii(threat: ThreatModel, diameter: float) -> Iterator[float]:
    radii = [fraction * threat.eps for fraction in _FRACTIONS]
    while radii[-1] < diameter:
        radii.append(2 * radii[-1])
    for eps in radii:
        if eps >= diameter:
            yield diameter
            return
        yield eps


def _diameter(evaluator: Evaluator, threat: ThreatModel) -> float:
    """Returns the largest distance of two images."""
    return 1.0 if threat.norm == "Linf" else math.sqrt(evaluator.batch().x[0].numel())


def measure_corruptions(evaluator: Evaluator) -> tuple[list[CorruptionRow], float]:
    """Measures all corruptions on all images.

    Args:
        evaluator: The network and the images.

    Returns:
        For each corruption, then for their mean, a row at each severity and one over all severities; and the
        seconds of computation.
    """
    evaluator = evaluator.on(evaluator.images, label=f"{evaluator.label}, corrupted")
    attacks = {
        (name, severity): corruption_attack(name, severity, seed=evaluator.measurement.seed)
        for name in CORRUPTIONS
        for severity in SEVERITIES
    }
    evaluator.run(list(attacks.values()))
    correct = {key: len(evaluator.survivors(attack)) for key, attack in attacks.items()}

    def row(name: str, severity: int | None) -> CorruptionRow:
        within = [
            right for key, right in correct.items() if name in (MEAN, key[0]) and severity in (None, key[1])
        ]
        images = len(evaluator.images)
        right, count = sum(within), len(within) * images
        # An image's corrupted copies are not independent of each other, so that only images count.
        low, high = wilson_interval(right / count, images)
        return CorruptionRow(
            evaluator.model, evaluator.split, name, severity, right, count, right / count, low, high
        )

    rows = [row(name, severity) for name in (*CORRUPTIONS, MEAN) for severity in (*SEVERITIES, None)]
    return rows, sum(evaluator.seconds.values())
