"""What is left of a student's accuracy, clean and robust, in the form in which it is deployed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from rrm_transfer.attacks.attack import CLEAN
from rrm_transfer.attacks.autoattack import library_version, part
from rrm_transfer.attacks.catalogue import STEPS, transfer_attack
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.images import ImageSet
from rrm_transfer.evaluation.checks import QUERIES
from rrm_transfer.evaluation.evaluator import Evaluator, Measurement, to_channels_last
from rrm_transfer.evaluation.metrics import Row
from rrm_transfer.evaluation.paired import Interval, difference


@dataclass(frozen=True)
class Kept:
    """One accuracy before and after an export, on the same images.

    Attributes:
        network: Of the student in PyTorch.
        exported: Of what was written.
    """

    network: Row
    exported: Row

    @property
    def difference(self) -> Interval:
        """The exported accuracy less the other, image by image."""
        return difference(self.exported, self.network).interval


class _Answering(nn.Module):
    """What an evaluator takes: logits, and nothing that was read before them."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._logits = logits

    def forward(self, x: Tensor) -> Outputs:
        logits = self._logits(x)
        return Outputs(logits, logits)


def check_export(
    student: nn.Module,
    exported: Callable[[Tensor], Tensor],
    images: ImageSet,
    measurement: Measurement,
    *,
    threat: ThreatModel,
    classes: int,
    form: str,
) -> tuple[Kept, ...]:
    """Measures both networks clean, on the same adversarial images, and under Square.

    What was exported has no gradients. So the adversarial images are made with those of the student in
    PyTorch, and go on past the point where it is fooled, since a point that only just fools one network
    seldom fools another; Square needs outputs alone. What both leave is an upper bound of robust accuracy.

    Args:
        student: Pixels in [0, 1], ``(B, C, H, W)``, to logits.
        exported: The same, as it was exported, on the CPU.
        images: What to measure on.
        measurement: How.
        threat: The ball.
        classes: Of the data.
        form: What messages call the exported network.
    """
    to_channels_last(student)
    before = _Answering(student)
    after = _Answering(lambda x: exported(x.cpu()).to(x))
    seed, narrator = measurement.seed, measurement.context.narrator
    attacks = [CLEAN, transfer_attack(student, threat, steps=STEPS, restarts=1, seed=seed)]
    if library_version() is None:
        narrator.warn('Square is left out: it needs pip install "rrm-transfer[autoattack]"')
    else:
        attacks.append(part("square", threat, seed=seed, classes=classes, steps=QUERIES, restarts=1))
    evaluators = [
        Evaluator(network, images, measurement, model="student", split="test", label=label)
        for network, label in ((before, "PyTorch"), (after, form))
    ]
    for evaluator in evaluators:
        evaluator.run(attacks)
    return tuple(Kept(*(evaluator.row(attack) for evaluator in evaluators)) for attack in attacks)
