"""Accuracy under common corruptions, at every severity."""

from __future__ import annotations

from rrm_transfer.attacks.corruptions import CORRUPTIONS, SEVERITIES, corruption_attack
from rrm_transfer.core.quantities import wilson_interval
from rrm_transfer.evaluation.evaluator import Evaluator
from rrm_transfer.evaluation.metrics import MEAN, CorruptionRow


def measure_corruptions(evaluator: Evaluator, *, seed: int) -> tuple[list[CorruptionRow], float]:
    """Measures all corruptions on all images.

    Args:
        evaluator: The model and the images.
        seed: Of everything random in the corruptions.

    Returns:
        For each corruption, then for their mean, a row at each severity and one over all severities; and the
        seconds of computation.
    """
    every = list(range(len(evaluator.images)))
    evaluator = evaluator.on(every, label=f"{evaluator.label}, corrupted")
    attacks = {
        (name, severity): corruption_attack(name, severity, seed=seed)
        for name in CORRUPTIONS
        for severity in SEVERITIES
    }
    evaluator.run(list(attacks.values()))
    correct = {key: len(evaluator.survivors(attack)) for key, attack in attacks.items()}

    def row(name: str, severity: int | None) -> CorruptionRow:
        within = [
            right for key, right in correct.items() if name in (MEAN, key[0]) and severity in (None, key[1])
        ]
        right, count = sum(within), len(within) * len(every)
        # An image's corrupted copies are not independent of each other, so that only images count.
        low, high = wilson_interval(right / count, len(every))
        return CorruptionRow(
            evaluator.role, evaluator.split, name, severity, right, count, right / count, low, high
        )

    rows = [row(name, severity) for name in (*CORRUPTIONS, MEAN) for severity in (*SEVERITIES, None)]
    return rows, sum(evaluator.seconds.values())
