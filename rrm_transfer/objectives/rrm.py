"""Robust representation matching on clean images."""

from __future__ import annotations

from rrm_transfer.objectives.arguments import Amount
from rrm_transfer.objectives.base import Objective, Step, Term
from rrm_transfer.objectives.matching import Distance, Matching


class RRM(Objective):
    """Robust representation matching.

    ``L = λ_ce · CE(S(x), y) + λ_feat · D(g_S(x), g_T(x))`` with ``D`` either ``1 − mean cos(g_S, g_T)`` or
    ``mean(‖g_S − g_T‖₂ / ‖g_T‖₂)``, on clean images and with a frozen teacher. Vaishnavi, Eykholt, Rahmati,
    "Transferring Adversarial Robustness Through Robust Representation Matching", USENIX Security 2022,
    arXiv 2202.09994. The defaults are its CIFAR-10 Linf setting.

    Args:
        distance: Between the representations; ``both`` adds the two.
        ce_weight: λ_ce, the weight of the cross-entropy; a weight near 1 undoes the transfer.
        feature_weight: λ_feat, the weight of the distance.
    """

    def __init__(
        self, *, distance: Distance = "cosine", ce_weight: Amount = 0.005, feature_weight: Amount = 1.0
    ) -> None:
        self.matching = Matching(
            distance=distance,
            feature_weight=feature_weight,
            kd_weight=0.0,
            temperature=1.0,
            ce_weight=ce_weight,
        )
        self.needs = self.matching.needs

    def __call__(self, step: Step) -> list[Term]:
        return self.matching.terms(step.student(step.x), step.clean_teacher(), step.y)
