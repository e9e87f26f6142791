"""Networks that could be a teacher: each measured as a run would, and several put in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.images import ImageSet
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.evaluation.evaluator import Measurement, to_channels_last
from rrm_transfer.recipe.schema import TeacherSection
from rrm_transfer.runs.models import (
    LoadedData,
    ModelFacts,
    facts_about,
    load_data,
    load_model,
    load_with_data,
    require_found,
)
from rrm_transfer.runs.standing import Standing
from rrm_transfer.runs.teacher import STEPS, at_chance, images_to_check, short_rows
from rrm_transfer.runtime.context import Context
from rrm_transfer.teachers.loading import own_size
from rrm_transfer.teachers.teacher import Teacher

RULE = (
    "a rule of thumb: only trained students tell which teacher is the better one, and often the more robust "
    "one is not (arXiv 2605.21999)"
)
_AS_ACCURATE = 0.1
"""Clean accuracy that a robust teacher may be behind the most accurate one before certainty decides nothing:
answers that are wrong are uncertain, too. A choice of this package."""


@dataclass(frozen=True)
class Candidate:
    """What is measured of one network.

    Attributes:
        name: As the user wrote it.
        standing: Accuracies on the images as they are, at eps and at 2 eps.
        entropy: Of the answers to the images as they are: mean, in nats.
        classes: Of the data.
        threat: Under which it was attacked.
        made_for: The threat model of its source, where that is another.
    """

    name: str
    standing: Standing
    entropy: float
    classes: int
    threat: ThreatModel
    made_for: ThreatModel | None = None

    @property
    def guesses(self) -> bool:
        """Whether it could as well be guessing."""
        return at_chance(self.standing.clean, self.classes)

    @property
    def verdict(self) -> str:
        if self.guesses:
            return "predicts at chance: wrong normalization or label order?"
        if self.standing.grade == "robust":
            return "accurate and robust to a short attack"
        return "accurate, but only WEAKLY robust" if self.standing.grade == "weak" else "accurate, NOT robust"

    def to_json(self) -> dict[str, Any]:
        standing = self.standing
        return {
            "clean": standing.clean.accuracy,
            "robust": standing.near.accuracy,
            "robust_2eps": standing.far.accuracy,
            "entropy": self.entropy,
            "count": standing.clean.count,
            "threat": f"{self.threat} PGD-{STEPS}",
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Place:
    """A candidate's place among others.

    Attributes:
        rank: From 1; None for one that was not measured.
        name: As the user wrote it.
        reason: For the place, in one line.
        candidate: None where it was not measured.
    """

    rank: int | None
    name: str
    reason: str
    candidate: Candidate | None

    def to_json(self) -> dict[str, Any]:
        measured = {} if self.candidate is None else self.candidate.to_json()
        return {"rank": self.rank, "source": self.name, "reason": self.reason, **measured}


def quick_accuracy(
    source: TeacherSection,
    dataset: str,
    context: Context,
    *,
    image_size: int | None = None,
    allow_code: frozenset[str],
) -> dict[str, Any]:
    """Measures a model as a run would before training, for ``inspect``.

    Returns:
        ``clean`` accuracy, ``robust`` at eps and ``robust_2eps`` at twice that, in [0, 1], ``entropy`` of the
        answers to clean images (mean, in nats), ``count``, ``threat``, and the ``verdict`` in words.

    Raises:
        UserError: The model or the data cannot be used, or the model has other classes.
    """
    known, data, model = load_with_data(
        source, dataset, context, image_size=image_size, allow_code=allow_code
    )
    norm = known.norm or "Linf"
    return _measure(source.name, model, known, data, ThreatModel(norm, known.eps_in(norm)), context).to_json()


def rank_teachers(
    sources: Sequence[TeacherSection],
    dataset: str,
    context: Context,
    *,
    image_size: int | None = None,
    allow_code: frozenset[str],
) -> list[Place]:
    """Measures networks on the same images under the same attack and puts them in order; see ``in_order``.

    The attack is of the first threat model that a source states, else of Linf 8/255.

    Args:
        sources: The networks as the user names them.
        dataset: To measure on.
        context: Processes and voice.
        image_size: Side in pixels of the images; None: what a network alone takes, else the data's.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.

    Raises:
        UserError: A model or the data cannot be loaded.
    """
    known = [facts_about(source.name) for source in sources]
    for source, facts in zip(sources, known, strict=True):
        require_found(source, facts)
    # The images are those of whoever was trained on these data, who may have kept some of them out.
    own = next((facts for facts in known if facts.dataset == dataset), ModelFacts())
    section = replace(own, image_size=image_size).section(dataset)
    data = load_data(section, own, seed=own.seed, context=context)
    stated = next((facts for facts in known if facts.norm is not None), ModelFacts())
    norm = stated.norm or "Linf"
    threat = ThreatModel(norm, stated.eps_in(norm))
    candidates, others = [], []
    for source, facts in zip(sources, known, strict=True):
        size = image_size or facts.image_size or own_size(source.arch or source.name, allow_code=allow_code)
        seen = replace(data, image_size=size or data.image_size)
        model = load_model(source, seen, context, allow_code=allow_code)
        if model.num_classes == data.images.num_classes:
            to_channels_last(model)
            candidates.append(_measure(source.name, model, facts, seen, threat, context))
        else:
            reason = (
                f"not measured: {model.num_classes or 'no'} classes, the data have "
                f"{data.images.num_classes}; rrm and rrm-adv can match its representation"
            )
            others.append(Place(None, source.name, reason, None))
    return in_order(candidates) + others


def in_order(candidates: Sequence[Candidate]) -> list[Place]:
    """Puts networks in the order in which they are to be tried as teachers.

    Robust ones come before weakly robust ones, and those before others. Of robust ones about as accurate as
    the most accurate, the least certain comes first: how uncertain a teacher is of the images that a student
    cannot learn robustly predicts the student (Lee and Chung, "Toward Understanding Adversarial Distillation:
    Why Robust Teachers Fail", ICML 2026, arXiv 2605.21999); here the entropy is that of all images. Weakly
    robust ones are in the order of what they keep at eps, others in that of their clean accuracy.
    """
    robust = [c for c in candidates if c.standing.grade == "robust" and not c.guesses]
    best = max((c.standing.clean.accuracy for c in robust), default=0.0)

    def key(candidate: Candidate) -> tuple[float, ...]:
        clean, near = candidate.standing.clean.accuracy, candidate.standing.kept[0]
        if candidate.guesses:
            return 4, -clean
        if candidate.standing.grade == "weak":
            return 2, -near
        if candidate.standing.grade == "not robust":
            return 3, -clean
        return (0, -candidate.entropy) if clean >= best - _AS_ACCURATE else (1, -clean)

    placed = sorted(candidates, key=key)
    first = placed[0] if robust else None
    return [
        Place(rank, candidate.name, _reason(candidate, first, best) + _elsewhere(candidate), candidate)
        for rank, candidate in enumerate(placed, 1)
    ]


def _reason(candidate: Candidate, first: Candidate | None, best: float) -> str:
    clean, (near, far) = candidate.standing.clean.accuracy, candidate.standing.kept
    kept = f"it keeps {near:.0%} of its clean accuracy at eps, {far:.0%} at 2 eps"
    if candidate.guesses:
        return candidate.verdict
    if candidate.standing.grade == "weak":
        return f"weakly robust, {kept}: for objectives that attack the student"
    if candidate.standing.grade == "not robust":
        return f"not robust, {kept}: its answers are targets for kd-adv, no more"
    if clean < best - _AS_ACCURATE:
        return f"robust, but {100 * (best - clean):.0f} points behind the most accurate robust one"
    if first is None or candidate is first:
        return f"robust, and none of such is less certain: {candidate.entropy:.2f} nats"
    return f"robust, but more certain: {candidate.entropy:.2f} nats, the first {first.entropy:.2f}"


def _elsewhere(candidate: Candidate) -> str:
    made = candidate.made_for
    return "" if made is None else f" (made for {made}, measured at {candidate.threat})"


def _measure(
    name: str, model: Teacher, known: ModelFacts, data: LoadedData, threat: ThreatModel, context: Context
) -> Candidate:
    measurement = Measurement(
        data.image_size, batch_size=64, seed=0, context=context, workers=context.runtime.decoding_workers
    )
    clean, near, far = short_rows(model, data, threat, measurement)
    own = None if known.norm is None or known.eps is None else ThreatModel(known.norm, known.eps)
    return Candidate(
        name,
        Standing(clean, near, far, known.stated_share(data.section, threat)),
        mean_entropy(model, images_to_check(data)[1], measurement),
        data.images.num_classes,
        threat,
        made_for=None if own == threat else own,
    )


def mean_entropy(teacher: Teacher, images: ImageSet, measurement: Measurement) -> float:
    """Returns how uncertain a teacher's answers are on clean images: 0 to ln(classes) nats."""
    batches = evaluation_batches(
        images,
        fit=choose_fit(images.size, measurement.image_size),
        batch_size=measurement.batch_size,
        device=measurement.context.runtime.device,
        workers=measurement.workers,
        substitute=True,
    )
    with torch.no_grad():
        found = [torch.special.entr(teacher.logits(batch.x).softmax(1)).sum(1) for batch in batches]
    return float(torch.cat(found).mean())
