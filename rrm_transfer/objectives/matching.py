"""What a student is matched to: the teacher's representation, its logits, the labels, each with a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.objectives.base import Need, Term
from rrm_transfer.objectives.divergences import cosine_distance, cross_entropy, kl_divergence, relative_l2

Distance = Literal["cosine", "relative_l2", "both"]

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
        wanted: dict[Need, float] = {"features": self.feature_weight, "logits": self.kd_weight}
        return frozenset(need for need, weight in wanted.items() if weight)

    def feature_distances(self, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns each chosen distance by name, ``(B,)``.

        Args:
            features: The student's, ``(B, width)``.
            target: The teacher's, ``(B, width)``.
        """
        names = list(_DISTANCES) if self.distance == "both" else [self.distance]
        return {name: _DISTANCES[name](features, target) for name in names}

    def terms(self, student: Outputs, teacher: Outputs | None, y: Tensor, prefix: str = "") -> list[Term]:
        """Returns the terms whose weight is not 0.

        Args:
            student: The student's outputs.
            teacher: The teacher's, or None where nothing of it is needed.
            y: Class indices ``(B,)`` or probabilities ``(B, classes)``.
            prefix: Goes before the terms' names.
        """
        terms: list[Term] = []
        if self.ce_weight:
            terms.append(Term(prefix + "ce", self.ce_weight, cross_entropy(student.logits, y).mean()))
        if teacher is None:
            return terms
        if self.feature_weight:
            distances = self.feature_distances(student.features, teacher.features)
            terms += [Term(prefix + name, self.feature_weight, d.mean()) for name, d in distances.items()]
        if self.kd_weight:
            divergence = kl_divergence(teacher.logits, student.logits, self.temperature)
            terms.append(Term(prefix + "kd", self.kd_weight, divergence.mean()))
        return terms
