"""Published methods that distil a robust teacher's logits on adversarial inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rrm_transfer.attacks.ascent import InnerAttack
from rrm_transfer.objectives.adversarial import attack_labels
from rrm_transfer.objectives.arguments import Amount, Count, Positive, Share
from rrm_transfer.objectives.base import Objective, Step, Term, teacher_inputs
from rrm_transfer.objectives.divergences import kl_divergence
from rrm_transfer.objectives.igdm import igdm_terms
from rrm_transfer.objectives.labels import labels_of

_SMALL_GAUSSIAN = 0.001
"""Standard deviation of the start in RSLAD's and AdaAD's code, in pixel units."""


@dataclass(kw_only=True)
class LogitDistillation(Objective):
    """Distils a teacher's logits on adversarial inputs from an ascent of several steps.

    Args:
        steps: Steps of the ascent.
        step_size: Size of one step in units of eps.
        igdm_weight: α of IGDM's addition, which grows linearly over training.
    """

    needs = frozenset({"logits"})
    attacks = True

    steps: Count = 10
    step_size: Amount = 0.25
    igdm_weight: Amount = 0.0


@dataclass(kw_only=True)
class ARD(LogitDistillation):
    """Adversarially robust distillation: ``α · τ² · KL(T(x) ‖ S(x')) + (1 − α) · CE(S(x), y)``.

    ``x'`` ascends ``CE(S(x'), y)`` from a uniform start. Goldblum et al., "Adversarially Robust
    Distillation", AAAI 2020, arXiv 1905.09747.

    Args:
        alpha: α; at 1 the clean images are not used.
        temperature: τ, by which logits are divided.
    """

    alpha: Share = 1.0
    temperature: Positive = 30.0

    def __post_init__(self) -> None:
        self.teacher_sees = teacher_inputs(clean=True, other=self.igdm_weight > 0)

    def __call__(self, step: Step) -> list[Term]:
        x_adv = attack_labels(step, InnerAttack(self.steps, self.step_size))
        logits = step.student(x_adv).logits
        divergence = kl_divergence(step.clean_teacher().logits, logits, self.temperature)
        terms = [Term("adversarial_kd", self.alpha, divergence.mean())]
        if self.alpha < 1:
            clean = labels_of(step).cross_entropy(step.student(step.x).logits)
            terms.append(Term("clean_ce", 1 - self.alpha, clean.mean()))
        return terms + igdm_terms(step, x_adv, logits, self.igdm_weight)


@dataclass(kw_only=True)
class IAD(LogitDistillation):
    """Introspective distillation: ``τ² · KL(T(x) ‖ S(x')) + mean (1 − A) · KL(S(x) ‖ S(x'))``.

    ``A = T(x')_y ^ β``: the less the teacher believes in the label of an adversarial image, the more the
    student listens to its own clean output. ``x'`` ascends ``CE(S(x'), y)`` from a uniform start. IAD-I of
    Zhu et al., "Reliable Adversarial Distillation with Unreliable Teachers", ICLR 2022, arXiv 2106.04928.

    Args:
        beta: β; larger values trust the teacher less.
        temperature: τ, by which logits are divided.
        begin: Part of training after which the second term joins; the official code waits for 60 of 200
            epochs.
    """

    beta: Amount = 0.1
    temperature: Positive = 1.0
    begin: Share = 0.3

    def __call__(self, step: Step) -> list[Term]:
        x_adv = attack_labels(step, InnerAttack(self.steps, self.step_size))
        logits = step.student(x_adv).logits
        guided = kl_divergence(step.clean_teacher().logits, logits, self.temperature)
        terms = [Term("adversarial_kd", 1.0, guided.mean())]
        if step.progress < self.begin:
            return terms + igdm_terms(step, x_adv, logits, self.igdm_weight)
        teacher_logits = step.teacher(x_adv).logits
        doubt = 1 - self._trust(teacher_logits, step.y)
        own = kl_divergence(step.student(step.x).logits, logits)
        terms.append(Term("introspection", 1.0, (doubt * own).mean()))
        return terms + igdm_terms(step, x_adv, logits, self.igdm_weight, teacher_logits=teacher_logits)

    def _trust(self, teacher_logits: Tensor, y: Tensor) -> Tensor:
        return F.softmax(teacher_logits, dim=1).gather(1, y[:, None])[:, 0] ** self.beta


@dataclass(kw_only=True)
class RSLAD(LogitDistillation):
    """Robust soft labels: ``λ · KL(T(x) ‖ S(x')) + (1 − λ) · KL(T(x) ‖ S(x))``.

    ``x'`` ascends ``KL(T(x) ‖ S(x'))`` from a small Gaussian start; no label is used. Zi et al., "Revisiting
    Adversarial Robustness Distillation: Robust Soft Labels Make Student Better", ICCV 2021, arXiv 2108.07969.

    Args:
        adversarial_share: λ, the share of adversarial inputs in the loss.
    """

    adversarial_share: Share = 5 / 6

    labels_optional = True

    def __post_init__(self) -> None:
        self.teacher_sees = teacher_inputs(clean=True, other=self.igdm_weight > 0)

    def __call__(self, step: Step) -> list[Term]:
        inner = InnerAttack(self.steps, self.step_size, start="gaussian", start_scale=_SMALL_GAUSSIAN)
        target = step.clean_teacher().logits
        x_adv = step.attack(lambda x: kl_divergence(target, step.student_eval(x).logits), inner)
        logits = step.student(x_adv).logits
        terms = [Term("adversarial_kd", self.adversarial_share, kl_divergence(target, logits).mean())]
        terms += _clean_kd(step, 1 - self.adversarial_share)
        return terms + igdm_terms(step, x_adv, logits, self.igdm_weight)


@dataclass(kw_only=True)
class AdaAD(LogitDistillation):
    """Adaptive adversarial distillation: ``λ · KL(T(x') ‖ S(x')) + (1 − λ) · KL(T(x) ‖ S(x))``.

    ``x'`` ascends ``KL(T(x') ‖ S(x'))`` from a small Gaussian start, through student and teacher; no label is
    used. Huang et al., "Boosting Accuracy and Robustness of Student Models via Adaptive Adversarial
    Distillation", CVPR 2023.

    Args:
        adversarial_share: λ, the share of adversarial inputs in the loss.
    """

    adversarial_share: Share = 1.0

    labels_optional = True

    def __post_init__(self) -> None:
        self.teacher_sees = teacher_inputs(clean=self.adversarial_share < 1, other=True)

    def __call__(self, step: Step) -> list[Term]:
        inner = InnerAttack(self.steps, self.step_size, start="gaussian", start_scale=_SMALL_GAUSSIAN)

        def disagreement(x: Tensor) -> Tensor:
            return kl_divergence(step.teacher(x).logits, step.student_eval(x).logits)

        x_adv = step.attack(disagreement, inner)
        logits = step.student(x_adv).logits
        target = step.teacher(x_adv).logits
        terms = [Term("adversarial_kd", self.adversarial_share, kl_divergence(target, logits).mean())]
        terms += _clean_kd(step, 1 - self.adversarial_share)
        return terms + igdm_terms(step, x_adv, logits, self.igdm_weight, teacher_logits=target)


@dataclass(kw_only=True)
class IGDM(AdaAD):
    """AdaAD with indirect gradient matching, as its authors report it best.

    ``AdaAD + α · p · KL(T(x + δ) − T(x − δ) ‖ S(x + δ) − S(x − δ))`` with ``p`` the part of training that is
    done. Lee, Cho, Kim, ICLR 2025, arXiv 2312.03286. The other methods on logits take the same addition by
    their ``igdm_weight``.

    Args:
        igdm_weight: α; the paper takes 1 on CIFAR-10 and 20 on CIFAR-100.
        adversarial_share: AdaAD's λ.
    """

    igdm_weight: Amount = 1.0


def _clean_kd(step: Step, weight: float) -> list[Term]:
    if not weight:
        return []
    divergence = kl_divergence(step.clean_teacher().logits, step.student(step.x).logits)
    return [Term("clean_kd", weight, divergence.mean())]
