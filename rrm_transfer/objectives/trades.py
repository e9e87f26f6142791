"""TRADES."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rrm_transfer.attacks.ascent import InnerAttack
from rrm_transfer.objectives.arguments import Amount, Count
from rrm_transfer.objectives.base import Objective, Step, Term
from rrm_transfer.objectives.divergences import kl_divergence
from rrm_transfer.objectives.labels import labels_of


@dataclass(kw_only=True)
class TRADES(Objective):
    """Accuracy and stability, traded: ``CE(S(x), y) + β · KL(S(x) ‖ S(x'))``.

    ``x'`` ascends the divergence from a Gaussian start (at ``x`` its gradient is 0); the minimised gradient
    reaches both outputs. Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy",
    ICML 2019, arXiv 1901.08573; steps of 0.007 at eps 0.031.

    Args:
        beta: β, the weight of stability against accuracy.
        steps: Steps of the ascent.
        step_size: Size of one step in units of eps.
        start_scale: Standard deviation of the start in pixel units.
    """

    attacks = True
    beta: Amount = 6.0
    steps: Count = 10
    step_size: Amount = 0.226
    start_scale: Amount = 0.001

    labels_optional = True

    def __call__(self, step: Step) -> list[Term]:
        inner = InnerAttack(self.steps, self.step_size, start="gaussian", start_scale=self.start_scale)
        with torch.no_grad():
            target = step.student_eval(step.x).logits
        x_adv = step.attack(lambda x: kl_divergence(target, step.student_eval(x).logits), inner)
        clean = step.student(step.x).logits
        unstable = kl_divergence(clean, step.student(x_adv).logits)
        return [
            Term("ce", 1.0, labels_of(step).cross_entropy(clean).mean()),
            Term("stability", self.beta, unstable.mean()),
        ]
