"""RRM and KD: a student is matched to a teacher, on clean images or on adversarial ones.

All four objectives are one sum, :meth:`Matching.terms`, with other weights and other inputs:
``λ_feat · D(g_S, g_T) + λ_kd · τ² · KL(T ‖ S) + λ_ce · CE(S, y)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rrm_transfer.attacks.ascent import InnerAttack, Start
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.objectives.arguments import Amount, Count, Layers, Network, Positive, Share, Weights
from rrm_transfer.objectives.base import (
    START,
    LayerPair,
    Need,
    Objective,
    Step,
    TeacherInput,
    Term,
    teacher_inputs,
)
from rrm_transfer.objectives.divergences import cosine_distance, cross_entropy, kl_divergence, relative_l2
from rrm_transfer.objectives.gradients import differentiable, gradient_term
from rrm_transfer.objectives.igdm import igdm_terms
from rrm_transfer.objectives.inputs import add_noise, mix
from rrm_transfer.objectives.labels import Labels, labels_of
from rrm_transfer.objectives.weighting import Emphasis, entropy_weights

Distance = Literal["cosine", "relative_l2", "both"]
Ascend = Literal["features", "kl", "ce"]
Target = Literal["clean", "adversarial"]
Weighting = Literal["equal", "entropy"]

_DISTANCES = {"cosine": cosine_distance, "relative_l2": relative_l2}


class Balance(NamedTuple):
    """The weights of what is matched on one kind of input."""

    features: float
    kd: float
    ce: float

    @property
    def matches(self) -> bool:
        """Whether anything of the teacher's counts."""
        return bool(self.features or self.kd)


@dataclass(kw_only=True)
class Matching(Objective):
    """A weighted sum of a distance between representations, a divergence between logits and cross-entropy.

    Args:
        distance: How far representations are apart; ``both`` adds the two.
        feature_weight: λ_feat, the weight of the distance between the representations.
        kd_weight: λ_kd, the weight of the divergence of the student's softened outputs from the teacher's,
            ``τ² · KL(T ‖ S)``.
        temperature: τ, by which logits are divided.
        ce_weight: Weight of the cross-entropy with the labels.
        freeze_classifier: Whether the student's classifier is the teacher's to the end, as in SimKD (Chen et
            al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022, which matches by mean
            squared error before pooling). null: where no term trains it. Where it starts is ``student.head``.
        student_layers: Intermediate layers of the student that are matched beside the representation, by
            name or index: averaged over positions and sent through a linear layer each, which is for training
            only.
        teacher_layers: Their counterparts in the teacher; null: those of the same names or indices.
        layer_weights: Weight of each pair's distance in units of ``feature_weight``; one number is for all.
    """

    distance: Distance = "relative_l2"
    feature_weight: Amount
    kd_weight: Amount
    temperature: Positive = 4.0
    ce_weight: Amount
    freeze_classifier: bool | None = None
    student_layers: Layers = ()
    teacher_layers: Layers | None = None
    layer_weights: Weights = (1.0,)

    def terms(
        self,
        student: Outputs,
        teacher: Outputs | None,
        labels: Labels,
        balance: Balance,
        prefix: str = "",
        emphasis: Tensor | float = 1.0,
    ) -> list[Term]:
        """Returns the terms whose weight is not 0.

        Args:
            student: The student's outputs.
            teacher: The teacher's, or None where nothing of it is needed.
            labels: Of the cross-entropy.
            balance: The weights of what is matched.
            prefix: Goes before the terms' names.
            emphasis: How much each image's match counts, ``(B,)``, or one number for all.
        """
        terms: list[Term] = []
        if balance.ce:
            loss = labels.cross_entropy(student.logits)
            terms.append(Term(prefix + "ce", balance.ce, loss.mean()))
        parts: list[tuple[str, float, Tensor]] = []
        if teacher is not None and balance.features:
            by_name = self.distances(student.features, teacher.features)
            parts += [(name, balance.features, distance) for name, distance in by_name.items()]
            parts += [
                (name, balance.features * weight, distance)
                for name, weight, distance in self._layer_distances(student, teacher)
            ]
        if teacher is not None and balance.kd:
            parts.append(("kd", balance.kd, self.kl(teacher.logits, student.logits)))
        matched = [Term(prefix + name, weight, (emphasis * values).mean()) for name, weight, values in parts]
        return terms + matched

    def distances(self, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns each chosen distance between representations, ``(B, width)``, by name, ``(B,)``."""
        names = list(_DISTANCES) if self.distance == "both" else [self.distance]
        return {name: _DISTANCES[name](features, target) for name in names}

    def distance_sum(self, features: Tensor, target: Tensor) -> Tensor:
        """Returns the sum of the chosen distances, ``(B,)``."""
        return torch.stack(list(self.distances(features, target).values())).sum(0)

    def kl(self, teacher_logits: Tensor, logits: Tensor) -> Tensor:
        """Returns the divergence between softened outputs, ``(B,)``."""
        return kl_divergence(teacher_logits, logits, self.temperature)

    def _layer_distances(self, student: Outputs, teacher: Outputs) -> list[tuple[str, float, Tensor]]:
        weights = self.layer_weights * (len(self.layers) if len(self.layer_weights) == 1 else 1)
        matched = zip(self.layers, weights, student.intermediates, teacher.intermediates, strict=True)
        return [
            (f"layer {pair.student} to {pair.teacher}", weight, self.distance_sum(own, target))
            for pair, weight, own, target in matched
        ]

    def balances(self) -> list[Balance]:
        """Returns the weights for each kind of input."""
        return [Balance(self.feature_weight, self.kd_weight, self.ce_weight)]

    @property
    def asks(self) -> bool:
        """Whether a term asks for the teacher's outputs."""
        return bool(self.needs & {"features", "logits"})

    def clean_teacher(self, step: Step) -> Outputs | None:
        """Returns the teacher's outputs on the clean image; None where no term asks for them."""
        return step.clean_teacher() if self.asks else None

    # What is asked of the teacher follows from the weights: a term of weight 0 costs nothing.

    def __post_init__(self) -> None:
        weights = Balance(*(max(parts) for parts in zip(*self.balances(), strict=True)))
        if not any(weights):
            raise UserError(
                "Nothing is left to minimise.",
                received="every weight is 0",
                allowed="at least one of feature_weight, kd_weight and ce_weight above 0",
            )
        self.layers = self._pairs()
        if self.layers and not weights.features:
            raise UserError(
                "Intermediate layers are weighted in units of feature_weight.", received="feature_weight=0"
            )
        self.needs = self._asked(weights) | self._classifier_need(weights)
        self.teacher_sees = self._teacher_inputs() if self.asks else frozenset()
        self.labels_optional = self._learns_without_labels(weights)
        # The cosine leaves the length of what the classifier reads free: by a weak cross-entropy alone it
        # learns slowly. The relative distance fixes it, and a classifier that learns is the more robust one.
        angles_alone = self.distance == "cosine" and weights.features > 0 and not weights.kd
        self.borrows_classifier = angles_alone or "frozen_classifier" in self.needs

    def _learns_without_labels(self, weights: Balance) -> bool:
        return weights.matches

    def _pairs(self) -> tuple[LayerPair, ...]:
        teachers = self.student_layers if self.teacher_layers is None else self.teacher_layers
        pairs = tuple(map(LayerPair, self.student_layers, teachers))
        if len(teachers) != len(self.student_layers) or len(set(pairs)) != len(pairs):
            raise UserError(
                "Each layer of the student has one of the teacher as its counterpart.",
                received=f"student_layers {list(self.student_layers)}, teacher_layers {list(teachers)}",
                allowed="two lists of equal length that pair no two layers twice",
            )
        if len(self.layer_weights) not in (1, len(pairs)):
            raise UserError(
                "There must be one layer weight, or one for each layer.", received=list(self.layer_weights)
            )
        return pairs

    def _asked(self, weights: Balance) -> frozenset[Need]:
        wanted: dict[Need, bool] = {"features": weights.features > 0, "logits": weights.kd > 0}
        return frozenset(need for need, asked in wanted.items() if asked)

    def _classifier_need(self, weights: Balance) -> frozenset[Need]:
        trained = bool(weights.kd or weights.ce)
        if self.freeze_classifier is False and not trained:
            raise UserError(
                "No loss term trains the student's classifier.",
                received="freeze_classifier=false, and neither kd_weight nor ce_weight",
                allowed="freeze_classifier=true, or a term that trains it",
            )
        return frozenset({"frozen_classifier"} if self.freeze_classifier or not trained else ())

    def _teacher_inputs(self) -> frozenset[TeacherInput]:
        return teacher_inputs(clean=True, other=False)


@dataclass(kw_only=True)
class CleanMatching(Matching):
    """Matching without an attack.

    Args:
        noise: Radius of uniform noise on the student's input, in units of eps; the teacher sees the image
            without it.
        mixup: α of mixup, seen by student and teacher alike; 0 for none.
        gradient_weight: Weight of ``eps · ‖∇_x CE(S(x), y)‖₁``, the penalty of ``gradnorm``; 0 for none.
    """

    noise: Amount = 0.0
    mixup: Share = 0.0
    gradient_weight: Amount = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.differentiates_twice = self.gradient_weight > 0

    def __call__(self, step: Step) -> list[Term]:
        (balance,) = self.balances()
        mixture = mix(step, self.mixup) if self.mixup else None
        if mixture is None:
            teacher = self.clean_teacher(step)
        else:  # no cache can hold what a teacher says of mixtures, so it is asked
            teacher = step.teacher(mixture.x) if self.asks else None
        x = add_noise(step, step.x if mixture is None else mixture.x, self.noise)
        if self.gradient_weight:
            with differentiable(x) as x:
                student = step.student(x)
        else:
            student = step.student(x)
        labels = labels_of(step) if mixture is None else mixture.labels(student.logits.shape[1])
        terms = self.terms(student, teacher, labels, balance)
        if self.gradient_weight:
            loss = labels.cross_entropy(student.logits)
            terms.append(gradient_term(step, x, loss, self.gradient_weight))
        return terms

    def _teacher_inputs(self) -> frozenset[TeacherInput]:
        return teacher_inputs(clean=not self.mixup, other=self.mixup > 0)


@dataclass(kw_only=True)
class RRM(CleanMatching):
    """Robust representation matching: ``λ_ce · CE(S(x), y) + λ_feat · D(g_S(x), g_T(x))``.

    ``D`` is ``1 − mean cos(g_S, g_T)`` or ``mean(‖g_S − g_T‖₂ / ‖g_T‖₂)``, on clean images and with a frozen
    teacher. Vaishnavi, Eykholt, Rahmati, "Transferring Adversarial Robustness Through Robust Representation
    Matching", USENIX Security 2022, arXiv 2202.09994. The defaults are its CIFAR-10 Linf setting; the
    teacher's logits, layers and classifier, noise and mixup are additions.

    Args:
        ce_weight: λ_ce, the weight of the cross-entropy; a weight near 1 undoes the transfer, at 0 no labels
            are used.
    """

    distance: Distance = "cosine"
    feature_weight: Amount = 1.0
    kd_weight: Amount = 0.0
    ce_weight: Amount = 0.005


@dataclass(kw_only=True)
class KD(CleanMatching):
    """Knowledge distillation on clean images: ``λ_kd · τ² · KL(T(x) ‖ S(x)) + λ_ce · CE(S(x), y)``.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531. Without the
    cross-entropy it needs no labels. The teacher's representation, layers and classifier, noise and mixup are
    additions.

    Args:
        ce_weight: λ_ce, the weight of the cross-entropy with the labels.
    """

    feature_weight: Amount = 0.0
    kd_weight: Amount = 1.0
    ce_weight: Amount = 0.0


_START_SCALES: dict[Start, float] = {"gaussian": 0.001, "noise": 2.0}


@dataclass(kw_only=True)
class AdversarialMatching(Matching):
    """Matching on adversarial student inputs.

    Args:
        target: Which answer of the teacher is matched on the adversarial image: that on the ``clean`` one,
            which a cache can hold, or that on the ``adversarial`` one itself, as in AdaAD, for which it is
            asked live. The attack ascends the distance to the clean one in both cases.
        weighting: How much each image's match counts: ``equal``, or by the ``entropy`` H of the target,
            ``H − min H``, and ``1 − (H − min H) / (max H − min H)`` on the clean image beside it, as in SAAD
            (Lee, Chung, TMLR 2026, arXiv 2512.10275), where the entropy stands for how well the student's
            attacks transfer to the teacher. Minimum and maximum are of the images that a process computes at
            once.
        clean_feature_weight: As ``feature_weight``, on the clean image.
        clean_kd_weight: As ``kd_weight``, on the clean image.
        clean_ce_weight: As ``ce_weight``, on the clean image.
        anchor: A frozen clean network to which the student is drawn on that clean image: ``start``, itself as
            it was when training began, from weights; or one with these classes, named as ``--teacher`` takes
            it. After B-MTARD (Zhao, Wang, Wei, arXiv 2306.16170), CIARD (Lu et al., ICCV 2025, arXiv
            2509.12633) and FARE (Schlarmann et al., ICML 2024, arXiv 2402.12336), simplified:
            docs/reference/objectives.md says how.
        anchor_weight: Weight of the divergence from the anchor's softened outputs, ``τ² · KL(A ‖ S)``; with
            ``start`` and ``feature_weight``, of the ``distance`` from the start's representation, projected
            as it was, instead.
        noise: Radius of uniform noise on that clean image, in units of eps, which only the student sees.
        ascend: What the attack maximises: ``features`` the distance between the representations, ``kl`` the
            divergence from the teacher's clean output at τ, ``ce`` the cross-entropy; the first two need no
            labels.
        steps: Steps of the ascent.
        step_size: Size of one step in units of eps; null: 1.25 for one step, as in FGSM-RS, 2.5 / steps for
            more.
        start: Where the ascent starts: ``uniform`` in the ball, ``gaussian``, ``noise`` uniform in a larger
            ball, or ``none``, at the image.
        start_scale: Standard deviation of ``gaussian`` in pixel units; null: 0.001, as in TRADES. Radius of
            ``noise`` in units of eps; null: 2, as in N-FGSM.
        clip: Whether each step ends in the ball.
        begin: Part of training before which there is no attack: all terms are of the clean image, with
            ``noise``. Attacks on the last part alone cost little (adversarial fine-tuning: Jeddi, Shafiee,
            Wong, 2020, arXiv 2012.13628).
        igdm_weight: α of IGDM's addition, which grows linearly over training.
    """

    target: Target = "clean"
    weighting: Weighting = "equal"
    clean_feature_weight: Amount = 0.0
    clean_kd_weight: Amount = 0.0
    clean_ce_weight: Amount = 0.0
    anchor: Network | None = None
    anchor_weight: Amount = 0.0
    noise: Amount = 0.0
    ascend: Ascend
    steps: Count = 1
    step_size: Amount | None = None
    start: Start = "uniform"
    start_scale: Amount | None = None
    clip: bool = True
    begin: Share = 0.0
    igdm_weight: Amount = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.attacks = self.begin < 1
        if (self.anchor is None) != (self.anchor_weight == 0):
            raise UserError(
                "An anchor and its weight go together.",
                received=f"anchor={self.anchor or 'null'}, anchor_weight={self.anchor_weight:g}",
            )
        matched = any(balance.matches for balance in self.balances())
        if self.weighting != "equal" and not (self.attacks and matched):
            raise UserError(
                "A weighting of the images has no effect here.",
                received=f"weighting={self.weighting}, and "
                + ("no weight of the teacher's answers" if self.attacks else f"begin={self.begin:g}"),
                allowed="weighting=entropy where adversarial images are matched to the teacher, else equal",
            )

    def __call__(self, step: Step) -> list[Term]:
        adversarial, clean = self.balances()
        if step.progress < self.begin:
            student = step.student(add_noise(step, step.x, self.noise))
            both = Balance(*map(sum, zip(adversarial, clean, strict=True)))
            terms = self.terms(student, self.clean_teacher(step), labels_of(step), both, "clean_")
            return terms + self._anchor_terms(step, student)
        teacher = self.clean_teacher(step) if self._attack_sees_clean else None
        x_adv = step.attack(lambda x: self._ascended(step, teacher, step.student_eval(x)), self.inner)
        student = step.student(x_adv)
        own = step.teacher(x_adv) if self.target == "adversarial" and self.asks else None
        target = teacher if own is None else own
        emphasis = Emphasis()
        if self.weighting == "entropy" and target is not None:
            emphasis = entropy_weights(target.logits)
        terms = self.terms(
            student, target, labels_of(step), adversarial, "adversarial_", emphasis.adversarial
        )
        if any(clean) or self.anchor is not None:
            beside = step.student(add_noise(step, step.x, self.noise))
            terms += self.terms(beside, teacher, labels_of(step), clean, "clean_", emphasis.clean)
            terms += self._anchor_terms(step, beside)
        known = None if own is None else own.logits
        return terms + igdm_terms(step, x_adv, student.logits, self.igdm_weight, teacher_logits=known)

    def _anchor_terms(self, step: Step, student: Outputs) -> list[Term]:
        if self.anchor is None:
            return []
        anchor = step.anchor()
        if self.anchor == START and self.feature_weight:
            away = self.distance_sum(student.features, anchor.features)
        else:  # another network's representation is of another width
            away = self.kl(anchor.logits, student.logits)
        return [Term("anchor", self.anchor_weight, away.mean())]

    @property
    def inner(self) -> InnerAttack:
        """The attack, with what was left open filled in."""
        step_size, scale = self.step_size, self.start_scale
        if step_size is None:
            step_size = 1.25 if self.steps == 1 else 2.5 / self.steps
        if scale is None:
            scale = _START_SCALES.get(self.start, 1.0)
        return InnerAttack(self.steps, step_size, self.start, scale, self.clip)

    def _ascended(self, step: Step, teacher: Outputs | None, student: Outputs) -> Tensor:
        if teacher is None or self.ascend == "ce":
            return cross_entropy(student.logits, step.y)
        if self.ascend == "kl":
            return self.kl(teacher.logits, student.logits)
        return self.distance_sum(student.features, teacher.features)

    def balances(self) -> list[Balance]:
        clean = Balance(self.clean_feature_weight, self.clean_kd_weight, self.clean_ce_weight)
        return [*super().balances(), clean]

    def _asked(self, weights: Balance) -> frozenset[Need]:
        ascended = weights._replace(
            features=weights.features or float(self.ascend == "features"),
            kd=weights.kd
            or self.igdm_weight
            or float(self.ascend == "kl" or (weights.matches and self.weighting == "entropy")),
        )
        return super()._asked(ascended)

    @property
    def _attack_sees_clean(self) -> bool:
        """Whether the teacher's clean answer is asked for where there is an attack."""
        clean = self.balances()[1]
        return self.target == "clean" or self.ascend != "ce" or clean.matches

    def _teacher_inputs(self) -> frozenset[TeacherInput]:
        return teacher_inputs(
            clean=self._attack_sees_clean or self.begin > 0,
            other=self.igdm_weight > 0 or self.target == "adversarial",
        )

    def _learns_without_labels(self, weights: Balance) -> bool:
        return self.ascend != "ce" and super()._learns_without_labels(weights)


@dataclass(kw_only=True)
class RRMAdv(AdversarialMatching):
    """RRM on adversarial student inputs: ``λ_ce · CE(S(x'), y) + λ_feat · D(g_S(x'), g_T(x))``.

    The inner attack is FGSM-RS by default and ascends the same distance, without labels. N-FGSM is
    ``start: noise, step_size: 1, clip: false``. The representation in place of the logits of
    RSLAD (Zi et al., ICCV 2021), with the distance of Vaishnavi, Eykholt, Rahmati (USENIX Security 2022).

    Args:
        ce_weight: λ_ce, the weight of the cross-entropy; at 0 no labels are used.
    """

    feature_weight: Amount = 1.0
    kd_weight: Amount = 0.0
    ce_weight: Amount = 0.005
    ascend: Ascend = "features"


@dataclass(kw_only=True)
class KDAdv(AdversarialMatching):
    """Distillation on adversarial student inputs: ``λ_kd · τ² · KL(T(x) ‖ S(x')) + λ_ce · CE(S(x'), y)``.

    The inner attack is FGSM-RS by default and ascends the same divergence, which needs no labels. N-FGSM is
    ``start: noise, step_size: 1, clip: false``. With ten steps, ``temperature: 1``, ``kd_weight: 5/6`` and
    ``clean_kd_weight: 1/6`` it is RSLAD (Zi et al., ICCV 2021) up to the start.

    Args:
        ce_weight: λ_ce, the weight of the cross-entropy with the labels.
    """

    feature_weight: Amount = 0.0
    kd_weight: Amount = 1.0
    ce_weight: Amount = 0.0
    ascend: Ascend = "kl"
