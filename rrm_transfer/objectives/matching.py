"""What a student is matched to: the teacher's representation, its logits, the labels, each with a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.objectives.base import InnerAttack, Need, Start, Step, Term
from rrm_transfer.objectives.divergences import cosine_distance, cross_entropy, kl_divergence, relative_l2
from rrm_transfer.objectives.igdm import igdm_terms
from rrm_transfer.objectives.inputs import add_noise, mix

Distance = Literal["cosine", "relative_l2", "both"]
Ascend = Literal["features", "kl", "ce"]

_DISTANCES = {"cosine": cosine_distance, "relative_l2": relative_l2}


@dataclass(frozen=True, kw_only=True)
class Matching:
    """A weighted sum of a distance between representations, a divergence between logits and cross-entropy.

    Attributes:
        distance: Between representations.
        feature_weight: Of that distance; of each of the two for ``both``.
        kd_weight: Of the divergence of the student's softened outputs from the teacher's.
        temperature: Of that divergence.
        ce_weight: Of the cross-entropy with the labels.
    """

    distance: Distance
    feature_weight: float
    kd_weight: float
    temperature: float
    ce_weight: float

    def __post_init__(self) -> None:
        if not (self.feature_weight or self.kd_weight or self.ce_weight):
            raise UserError(
                "Nothing is left to minimise.",
                received="feature_weight, kd_weight and ce_weight are all 0",
                allowed="at least one of them above 0",
            )

    @property
    def needs(self) -> frozenset[Need]:
        wanted: dict[Need, bool] = {
            "features": self.feature_weight > 0,
            "logits": self.kd_weight > 0,
            "classifier": self.kd_weight == self.ce_weight == 0,
        }
        return frozenset(need for need, asked in wanted.items() if asked)

    def distances(self, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns each chosen distance between representations, ``(B, width)``, by name, ``(B,)``."""
        names = list(_DISTANCES) if self.distance == "both" else [self.distance]
        return {name: _DISTANCES[name](features, target) for name in names}

    def kl(self, teacher_logits: Tensor, logits: Tensor) -> Tensor:
        """Returns the divergence between softened outputs, ``(B,)``."""
        return kl_divergence(teacher_logits, logits, self.temperature)

    def terms(self, student: Outputs, teacher: Outputs | None, y: Tensor, prefix: str = "") -> list[Term]:
        """Returns the terms whose weight is not 0.

        Args:
            student: The student's outputs.
            teacher: The teacher's, or None where nothing of it is needed.
            y: Class indices ``(B,)`` or probabilities ``(B, classes)``.
            prefix: Goes before the terms' names.
        """
        parts: list[tuple[str, float, Tensor]] = []
        if self.ce_weight:
            parts.append(("ce", self.ce_weight, cross_entropy(student.logits, y)))
        if teacher is not None and self.feature_weight:
            by_name = self.distances(student.features, teacher.features)
            parts += [(name, self.feature_weight, distance) for name, distance in by_name.items()]
        if teacher is not None and self.kd_weight:
            parts.append(("kd", self.kd_weight, self.kl(teacher.logits, student.logits)))
        return [Term(prefix + name, weight, values.mean()) for name, weight, values in parts]


@dataclass(frozen=True, kw_only=True)
class CleanMatching:
    """Matching without an attack.

    Attributes:
        matching: What is matched.
        noise: Radius of uniform noise on the student's input, in units of eps; the target stays the teacher's
            output on the image without noise.
        mixup: α of mixup; student and teacher both see the mixed image; 0 for none.
    """

    matching: Matching
    noise: float
    mixup: float

    @property
    def needs(self) -> frozenset[Need]:
        return self.matching.needs

    def __call__(self, step: Step) -> list[Term]:
        if not self.mixup:
            student = step.student(add_noise(step, step.x, self.noise))
            return self.matching.terms(student, step.clean_teacher() if self.needs else None, step.y)
        mixture = mix(step, self.mixup)
        student = step.student(add_noise(step, mixture.x, self.noise))
        y = mixture.probabilities(student.logits.shape[1])
        return self.matching.terms(student, step.teacher(mixture.x) if self.needs else None, y)


@dataclass(frozen=True, kw_only=True)
class AdversarialMatching:
    """Matching on adversarial student inputs; the targets are the teacher's on the clean image.

    Attributes:
        matching: What is matched.
        inner: How the inputs are made.
        ascend: What the inputs maximise: the distance between representations, the divergence of the
            student's softened outputs, or the cross-entropy.
        clean_weight: Of the same matching on the clean image, relative to that on the adversarial one.
        igdm_weight: See ``igdm_terms``.
    """

    matching: Matching
    inner: InnerAttack
    ascend: Ascend
    clean_weight: float
    igdm_weight: float

    @property
    def needs(self) -> frozenset[Need]:
        ascent: dict[Ascend, frozenset[Need]] = {
            "features": frozenset({"features"}),
            "kl": frozenset({"logits"}),
            "ce": frozenset(),
        }
        igdm: frozenset[Need] = frozenset({"logits"} if self.igdm_weight else ())
        return self.matching.needs | ascent[self.ascend] | igdm

    def __call__(self, step: Step) -> list[Term]:
        teacher = step.clean_teacher() if self.needs else None
        x_adv = step.attack(lambda x: self._ascended(step, teacher, step.student_eval(x)), self.inner)
        student = step.student(x_adv)
        terms = self.matching.terms(student, teacher, step.y, "adversarial_")
        if self.clean_weight:
            clean = self.matching.terms(step.student(step.x), teacher, step.y, "clean_")
            terms += [term._replace(weight=self.clean_weight * term.weight) for term in clean]
        return terms + igdm_terms(step, x_adv, student.logits, self.igdm_weight)

    def _ascended(self, step: Step, teacher: Outputs | None, student: Outputs) -> Tensor:
        if teacher is None or self.ascend == "ce":
            return cross_entropy(student.logits, step.y)
        if self.ascend == "kl":
            return self.matching.kl(teacher.logits, student.logits)
        distances = self.matching.distances(student.features, teacher.features)
        return torch.stack(list(distances.values())).sum(0)


_START_SCALES: dict[Start, float] = {"gaussian": 0.001, "noise": 2.0}


def inner_attack(
    steps: int, step_size: float | None, start: Start, start_scale: float | None, clip: bool
) -> InnerAttack:
    """Describes an inner attack, with the usual values in place of None.

    A step is then 1.25 for one step, as in FGSM-RS (Wong, Rice, Kolter, ICLR 2020), and ``2.5 / steps`` for
    more, in units of eps; a Gaussian start is that of TRADES, a noise start that of N-FGSM.
    """
    if step_size is None:
        step_size = 1.25 if steps == 1 else 2.5 / steps
    if start_scale is None:
        start_scale = _START_SCALES.get(start, 1.0)
    return InnerAttack(steps, step_size, start, start_scale, clip)
