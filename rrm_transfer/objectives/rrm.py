"""Robust representation matching, on clean and on adversarial images."""

from __future__ import annotations

from dataclasses import dataclass

from rrm_transfer.objectives.arguments import Amount
from rrm_transfer.objectives.matching import AdversarialMatching, Ascend, CleanMatching, Distance


@dataclass(kw_only=True, eq=False)
class RRM(CleanMatching):
    """Robust representation matching: ``λ_ce · CE(S(x), y) + λ_feat · D(g_S(x), g_T(x))``.

    ``D`` is ``1 − mean cos(g_S, g_T)`` or ``mean(‖g_S − g_T‖₂ / ‖g_T‖₂)``, on clean images and with a frozen
    teacher. Vaishnavi, Eykholt, Rahmati, "Transferring Adversarial Robustness Through Robust Representation
    Matching", USENIX Security 2022, arXiv 2202.09994. The defaults are its CIFAR-10 Linf setting; the
    teacher's logits, layers and classifier, noise and mixup are additions.

    Args:
        feature_weight: λ_feat, the weight of the distance between the representations.
        ce_weight: λ_ce, the weight of the cross-entropy; a weight near 1 undoes the transfer, at 0 no labels
            are used.
    """

    distance: Distance = "cosine"
    feature_weight: Amount = 1.0
    kd_weight: Amount = 0.0
    ce_weight: Amount = 0.005


@dataclass(kw_only=True, eq=False)
class RRMAdv(AdversarialMatching):
    """RRM on adversarial student inputs: ``λ_ce · CE(S(x'), y) + λ_feat · D(g_S(x'), g_T(x))``.

    The inner attack is FGSM-RS by default and ascends the same distance, without labels. N-FGSM is
    ``start: noise, step_size: 1, clip: false``. The representation in place of the logits of
    RSLAD (Zi et al., ICCV 2021), with the distance of Vaishnavi, Eykholt, Rahmati (USENIX Security 2022).

    Args:
        feature_weight: λ_feat, the weight of the distance between the representations.
        ce_weight: λ_ce, the weight of the cross-entropy; at 0 no labels are used.
    """

    feature_weight: Amount = 1.0
    kd_weight: Amount = 0.0
    ce_weight: Amount = 0.005
    ascend: Ascend = "features"
