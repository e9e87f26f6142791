"""Distillation of the teacher's outputs, on clean and on adversarial images."""

from __future__ import annotations

from dataclasses import dataclass

from rrm_transfer.objectives.arguments import Amount
from rrm_transfer.objectives.matching import AdversarialMatching, Ascend, CleanMatching


@dataclass(kw_only=True, eq=False)
class KD(CleanMatching):
    """Knowledge distillation on clean images: ``λ_kd · τ² · KL(T(x) ‖ S(x)) + λ_ce · CE(S(x), y)``.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531. Without the
    cross-entropy it needs no labels. The teacher's representation, layers and classifier, noise and mixup are
    additions.

    Args:
        kd_weight: λ_kd, the weight of ``τ² · KL(T ‖ S)``.
        ce_weight: λ_ce, the weight of the cross-entropy with the labels.
    """

    feature_weight: Amount = 0.0
    kd_weight: Amount = 1.0
    ce_weight: Amount = 0.0


@dataclass(kw_only=True, eq=False)
class KDAdv(AdversarialMatching):
    """Distillation on adversarial student inputs: ``λ_kd · τ² · KL(T(x) ‖ S(x')) + λ_ce · CE(S(x'), y)``.

    The inner attack is FGSM-RS by default and ascends the same divergence, which needs no labels. N-FGSM is
    ``start: noise, step_size: 1, clip: false``. With ten steps, ``temperature: 1``, ``kd_weight: 5/6`` and
    ``clean_kd_weight: 1/6`` it is RSLAD (Zi et al., ICCV 2021) up to the start.

    Args:
        kd_weight: λ_kd, the weight of ``τ² · KL(T ‖ S)``.
        ce_weight: λ_ce, the weight of the cross-entropy with the labels.
    """

    feature_weight: Amount = 0.0
    kd_weight: Amount = 1.0
    ce_weight: Amount = 0.0
    ascend: Ascend = "kl"
