"""Distillation of the teacher's outputs, on clean and on adversarial images."""

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


class KD(Objective):
    """Knowledge distillation on clean images: ``λ_kd · τ² · KL(T(x) ‖ S(x)) + λ_ce · CE(S(x), y)``.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. Without the
    cross-entropy it needs no labels. The representation, noise and mixup are additions.

    Args:
        kd_weight: λ_kd.
        temperature: τ.
        ce_weight: λ_ce.
        feature_weight: Of the distance between the representations.
        distance: Between the representations; ``both`` adds the two.
        noise: Radius of uniform noise on the student's input, in units of eps; the teacher sees the image
            without it.
        mixup: α of mixup, seen by student and teacher alike; 0 for none.
    """

    def __init__(
        self,
        *,
        kd_weight: Amount = 1.0,
        temperature: Positive = 4.0,
        ce_weight: Amount = 0.0,
        feature_weight: Amount = 0.0,
        distance: Distance = "relative_l2",
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


class KDAdv(Objective):
    """Distillation on adversarial student inputs: ``τ² · KL(T(x) ‖ S(x'))``.

    The inner attack is FGSM-RS by default and ascends the same divergence, which needs no labels. N-FGSM is
    ``start: noise, step_size: 1, clip: false``. With ten steps, ``τ = 1`` and a clean weight of 1/5
    it is RSLAD (Zi et al., ICCV 2021) up to the start and a common factor.

    Args:
        kd_weight: Of the divergence.
        temperature: τ.
        ce_weight: Of ``CE(S(x'), y)``.
        feature_weight: Of the distance between the representations.
        distance: Between the representations; ``both`` adds the two.
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
        kd_weight: Amount = 1.0,
        temperature: Positive = 4.0,
        ce_weight: Amount = 0.0,
        feature_weight: Amount = 0.0,
        distance: Distance = "relative_l2",
        clean_weight: Amount = 0.0,
        ascend: Ascend = "kl",
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
