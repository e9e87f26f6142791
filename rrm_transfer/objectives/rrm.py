"""Robust representation matching, on clean and on adversarial images."""

from __future__ import annotations

from rrm_transfer.objectives.arguments import Amount, Count, Positive, Share
from rrm_transfer.objectives.base import Objective, Start, Step, Term
from rrm_transfer.objectives.matching import (
    AdversarialMatching,
    Ascend,
    CleanMatching,
    Distance,
    Matching,
    inner_attack,
)


class RRM(Objective):
    """Robust representation matching.

    ``L = λ_ce · CE(S(x), y) + λ_feat · D(g_S(x), g_T(x))`` with ``D`` either ``1 − mean cos(g_S, g_T)`` or
    ``mean(‖g_S − g_T‖₂ / ‖g_T‖₂)``, on clean images and with a frozen teacher. Vaishnavi, Eykholt, Rahmati,
    "Transferring Adversarial Robustness Through Robust Representation Matching", USENIX Security 2022,
    arXiv 2202.09994. The defaults are its CIFAR-10 Linf setting; noise, mixup and the teacher's logits are
    additions.

    Args:
        distance: Between the representations; ``both`` adds the two.
        feature_weight: λ_feat, the weight of the distance.
        ce_weight: λ_ce, the weight of the cross-entropy; a weight near 1 undoes the transfer. At 0 no labels
            are used, and without ``kd_weight`` the student takes the teacher's classifier.
        kd_weight: Of ``τ² · KL(T(x) ‖ S(x))``.
        temperature: τ.
        noise: Radius of uniform noise on the student's input, in units of eps; the teacher sees the image
            without it.
        mixup: α of mixup, seen by student and teacher alike; 0 for none.
    """

    def __init__(
        self,
        *,
        distance: Distance = "cosine",
        feature_weight: Amount = 1.0,
        ce_weight: Amount = 0.005,
        kd_weight: Amount = 0.0,
        temperature: Positive = 4.0,
        noise: Amount = 0.0,
        mixup: Share = 0.0,
    ) -> None:
        matching = Matching(
            distance=distance,
            feature_weight=feature_weight,
            kd_weight=kd_weight,
            temperature=temperature,
            ce_weight=ce_weight,
        )
        self.clean = CleanMatching(matching=matching, noise=noise, mixup=mixup)
        self.needs = self.clean.needs

    def __call__(self, step: Step) -> list[Term]:
        return self.clean(step)


class RRMAdv(Objective):
    """Representation matching on adversarial student inputs: ``D(g_S(x'), g_T(x))``.

    The inner attack is FGSM-RS by default and ascends the same distance, without labels. N-FGSM is
    ``start: noise, step_size: 1, clip: false``. The representation in place of the logits of
    RSLAD (Zi et al., ICCV 2021), with the distance of Vaishnavi, Eykholt, Rahmati (USENIX Security 2022).

    Args:
        distance: Between the representations; ``both`` adds the two.
        feature_weight: Of the distance.
        kd_weight: Of ``τ² · KL(T(x) ‖ S(x'))``.
        temperature: τ.
        ce_weight: Of ``CE(S(x'), y)``. At 0 no labels are used, and without ``kd_weight`` the student takes
            the teacher's classifier.
        clean_weight: Of the same terms on the clean image, relative to those on the adversarial one.
        ascend: What the attack maximises: ``features`` the distance, ``kl`` the divergence from the teacher's
            clean output at τ, ``ce`` the cross-entropy.
        steps: Of the ascent.
        step_size: Of one step in units of eps; null: 1.25 for one step, 2.5 / steps for more.
        start: Of the ascent: ``uniform`` in the ball, ``gaussian``, ``noise`` uniform in a larger ball, or
            ``none``, at the image.
        start_scale: Standard deviation of ``gaussian`` in pixel units; null: 0.001. Radius of ``noise`` in
            units of eps; null: 2.
        clip: Whether each step ends in the ball.
        igdm_weight: α of IGDM's addition on the logits, which grows linearly over training.
    """

    def __init__(
        self,
        *,
        distance: Distance = "relative_l2",
        feature_weight: Amount = 1.0,
        kd_weight: Amount = 0.0,
        temperature: Positive = 4.0,
        ce_weight: Amount = 0.005,
        clean_weight: Amount = 0.0,
        ascend: Ascend = "features",
        steps: Count = 1,
        step_size: Amount | None = None,
        start: Start = "uniform",
        start_scale: Amount | None = None,
        clip: bool = True,
        igdm_weight: Amount = 0.0,
    ) -> None:
        self.adversarial = AdversarialMatching(
            matching=Matching(
                distance=distance,
                feature_weight=feature_weight,
                kd_weight=kd_weight,
                temperature=temperature,
                ce_weight=ce_weight,
            ),
            inner=inner_attack(steps, step_size, start, start_scale, clip),
            ascend=ascend,
            clean_weight=clean_weight,
            igdm_weight=igdm_weight,
        )
        self.needs = self.adversarial.needs

    def __call__(self, step: Step) -> list[Term]:
        return self.adversarial(step)
