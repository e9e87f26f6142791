"""Adversarial training on cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rrm_transfer.attacks.ascent import InnerAttack
from rrm_transfer.objectives.arguments import Amount, Count, Share
from rrm_transfer.objectives.base import Objective, Step, Term
from rrm_transfer.objectives.divergences import cross_entropy
from rrm_transfer.objectives.labels import labels_of


def attack_labels(step: Step, inner: InnerAttack) -> Tensor:
    """Returns adversarial inputs that ascend ``CE(S(x'), y)``, ``(B, C, H, W)``."""
    return step.attack(lambda x_adv: cross_entropy(step.student_eval(x_adv).logits, step.y), inner)


def adversarial_cross_entropy(step: Step, inner: InnerAttack, label_smoothing: float) -> list[Term]:
    """Returns ``CE(S(x'), y)`` as the only term."""
    logits = step.student(attack_labels(step, inner)).logits
    return [Term("adversarial_ce", 1.0, labels_of(step).cross_entropy(logits, label_smoothing).mean())]


@dataclass(kw_only=True)
class PGDAT(Objective):
    """Adversarial training: ``CE(S(x'), y)`` with ``x'`` from k steps of projected gradient ascent on it.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv
    1706.06083. Ten steps of 2/255 at 8/255 are the defaults of Rice, Wong, Kolter, ICML 2020. The method that
    the RRM paper calls "Fast AT" is this one with ``steps: 7`` and a short cyclic schedule, not FGSM-RS.

    Args:
        steps: Steps of the ascent.
        step_size: Size of one step in units of eps.
        random_start: Whether the ascent starts at a uniformly drawn point of the ball, else at the image.
        label_smoothing: Share of each label that is spread evenly over all classes, in the loss that is
            minimised; the ascent uses the labels as they are.
    """

    attacks = True
    steps: Count = 10
    step_size: Amount = 0.25
    random_start: bool = True
    label_smoothing: Share = 0.0

    def __call__(self, step: Step) -> list[Term]:
        inner = InnerAttack(self.steps, self.step_size, start="uniform" if self.random_start else "none")
        return adversarial_cross_entropy(step, inner, self.label_smoothing)


@dataclass(kw_only=True)
class FastAT(Objective):
    """FGSM-RS: ``CE(S(x'), y)`` with ``x'`` one step from a uniformly drawn point of the ball.

    Wong, Rice, Kolter, "Fast is better than free", ICLR 2020, arXiv 2001.03994. With large steps or long
    training it can overfit to the one step ("catastrophic overfitting"): PGD accuracy on held-out images then
    falls to 0.

    Args:
        step_size: In units of eps.
        label_smoothing: Share of each label that is spread evenly over all classes in the minimised loss.
    """

    attacks = True
    step_size: Amount = 1.25
    label_smoothing: Share = 0.0

    def __call__(self, step: Step) -> list[Term]:
        return adversarial_cross_entropy(step, InnerAttack(1, self.step_size), self.label_smoothing)


@dataclass(kw_only=True)
class NFGSM(Objective):
    """N-FGSM: ``CE(S(x'), y)`` with ``x' = x + η + α · sign(∇CE(S(x + η), y))``, not brought into the ball.

    ``η`` is uniform in a ball larger than eps; only the image range clips. de Jorge et al., "Make Some Noise:
    Reliable and Efficient Single-Step Adversarial Training", NeurIPS 2022, arXiv 2202.01181.

    Args:
        noise: Radius of the noise in units of eps.
        step_size: α in units of eps.
        label_smoothing: Share of each label that is spread evenly over all classes in the minimised loss.
    """

    attacks = True
    noise: Amount = 2.0
    step_size: Amount = 1.0
    label_smoothing: Share = 0.0

    def __call__(self, step: Step) -> list[Term]:
        inner = InnerAttack(1, self.step_size, start="noise", start_scale=self.noise, clip=False)
        return adversarial_cross_entropy(step, inner, self.label_smoothing)
