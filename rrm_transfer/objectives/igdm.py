"""Indirect gradient distillation: an addition to any method that matches logits."""

from __future__ import annotations

from torch import Tensor

from rrm_transfer.objectives.base import Step, Term
from rrm_transfer.objectives.divergences import kl_divergence


def igdm_terms(
    step: Step, x_adv: Tensor, student_logits: Tensor, weight: float, *, teacher_logits: Tensor | None = None
) -> list[Term]:
    """Returns ``α · p · KL(T(x + δ) − T(x − δ) ‖ S(x + δ) − S(x − δ))``, or nothing for a weight of 0.

    ``p`` is the part of training that is done; differences of logits go through the softmax, and ``x − δ`` is
    not brought into the image range, as in the official code. Lee, Cho, Kim, "Indirect Gradient Matching for
    Adversarial Robust Distillation", ICLR 2025, arXiv 2312.03286.

    Args:
        step: The batch.
        x_adv: ``x + δ``, pixels in [0, 1], ``(B, C, H, W)``.
        student_logits: ``S(x + δ)``, ``(B, classes)``.
        weight: α.
        teacher_logits: ``T(x + δ)``, ``(B, classes)``, where it is known already.
    """
    if not weight:
        return []
    mirrored = 2 * step.x - x_adv
    plus = step.teacher(x_adv).logits if teacher_logits is None else teacher_logits
    divergence = kl_divergence(
        plus - step.teacher(mirrored).logits, student_logits - step.student(mirrored).logits
    )
    return [Term("igdm", weight * step.progress, divergence.mean())]
