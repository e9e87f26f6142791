"""Do the robustness figures mislead? Signs of gradient masking, each with a figure and a limit.

After Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705), section 5, and Athalye et
al., "Obfuscated Gradients Give a False Sense of Security" (arXiv 1802.00420), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrm_transfer.attacks.attack import Attack, Logits
from rrm_transfer.attacks.autoattack import library_version
from rrm_transfer.attacks.catalogue import build_attack
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.evaluator import (
    Evaluator,
    strict_float32,
    without_weight_gradients,
)
from rrm_transfer.evaluation.metrics import Row
from rrm_transfer.evaluation.scales import eps_curve

Level = Literal["none", "quick", "full"]
LEVELS: tuple[str, ...] = get_args(Level)
Status = Literal["pass", "suspicious", "not-run"]

IMAGES = 250
"""Checks are made on a balanced sample of this size."""
RESTARTS = 5
QUERIES = 1000
"""Of Square: a fifth of AutoAttack's, enough to see whether gradients hide much."""
CONTROL_RADIUS = 4
"""In units of eps: here an undefended network must have fallen; at smaller radii it may have."""
_ZERO = 1e-12
"""A gradient with no component above this cannot be followed in float32."""


@dataclass(frozen=True)
class Kind:
    """What a check measures.

    Attributes:
        meaning: Of the figure, for people.
        limit: The largest figure that passes; None: one divided by the number of classes.
    """

    meaning: str
    limit: float | None


KINDS: dict[str, Kind] = {
    "gradients-not-zero": Kind("share of correct images whose gradient is zero", 0.05),
    "deterministic": Kind("largest difference of two outputs for one input, relative to the logits", 1e-4),
    "logits-not-probabilities": Kind("share of outputs that are probabilities", 0.0),
    "logit-scale": Kind("median gap between the two highest logits", 40.0),
    "iterative-beats-one-step": Kind("accuracy under PGD above that under one step", 0.01),
    "noise-weaker": Kind("share of images lost to random noise but to no white-box attack", 0.02),
    "more-steps": Kind("accuracy lost when PGD takes twice the steps", 0.03),
    "more-restarts": Kind(f"accuracy lost when PGD is started {RESTARTS} times", 0.03),
    "falls-with-eps": Kind("largest rise of accuracy from one eps to the next", 0.01),
    "reaches-chance": Kind("accuracy at the largest eps", None),
    "square-weaker": Kind("share of images lost to Square but to no white-box attack", 0.02),
    "transfer-weaker": Kind(
        "share of images lost to perturbations of the surrogate but to no white-box attack", 0.02
    ),
    "ce-against-dlr": Kind("accuracy under APGD on cross-entropy above that on DLR", 0.05),
    "control-falls": Kind("accuracy of the undefended control at its largest eps", 0.05),
}


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: Of ``KINDS``.
        status: ``not-run`` where no figure was measured.
        figure: What was measured; None where nothing was, or what is no number.
        limit: The largest figure that passes.
    """

    name: str
    status: Status
    figure: float | None
    limit: float

    @classmethod
    def of(cls, name: str, figure: float | None, classes: int) -> Check:
        """Judges a figure; None was not measured. What is not a number is suspicious, and kept as None."""
        limit = KINDS[name].limit
        limit = 1 / classes if limit is None else limit
        if figure is None:
            return cls(name, "not-run", None, limit)
        kept = figure if math.isfinite(figure) else None
        return cls(name, "pass" if figure <= limit else "suspicious", kept, limit)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_checks(
    level: Level,
    evaluator: Evaluator,
    threat: ThreatModel,
    *,
    classes: int,
    steps: int,
    surrogate: Logits | None = None,
    queries: int = QUERIES,
    curve: Sequence[Row] = (),
    control: Sequence[Row] = (),
    undefended: nn.Module | None = None,
) -> list[Check]:
    """Makes all checks that the level pays for; the others are reported as not run.

    ``quick`` costs a PGD of ``steps`` and as many random draws on ``IMAGES`` images; ``full`` adds a PGD of
    twice the steps, one of five restarts, an eps curve, APGD on two losses, Square and, where there is a
    surrogate, a transfer attack.

    Args:
        level: ``none``, ``quick`` or ``full``.
        evaluator: The network and the images to take a sample of.
        threat: The ball.
        classes: Of the data.
        steps: Of the PGD that the other attacks are compared with.
        surrogate: A model to transfer perturbations from: the teacher.
        queries: Of Square, on each image.
        curve: Rows of one attack at several radii that were measured already.
        control: Rows of the undefended control under PGD.
        undefended: The control itself, for the largest eps of the curve, where there is a curve.
    """
    few = evaluator.images.balanced(IMAGES)
    if few is not evaluator.images:
        evaluator = evaluator.on(few, label="checks")
    figures = _control_figure(control, threat)
    if level != "none":
        figures |= _outputs(evaluator)
    suite = _Suite(evaluator, threat, classes=classes, steps=steps)
    if level != "none" and threat.eps > 0:
        figures |= suite.quick()
        if level == "full":
            figures |= suite.full(surrogate, queries)
            curve = curve or eps_curve(evaluator, threat, suite.pgd, classes=classes)
    if curve:
        figures |= _curve_figures(curve)
        if undefended is not None:
            figures["control-falls"] = suite.control(undefended, max(row.eps or 0.0 for row in curve))
    return [Check.of(name, figures.get(name), classes) for name in KINDS]


def parse_level(text: str) -> Level:
    """Reads the level of checks.

    Raises:
        UserError: It is unknown.
    """
    for level in get_args(Level):
        if text == level:
            return level  # type: ignore[no-any-return]
    raise UserError("Unknown level of checks.", received=text, allowed=LEVELS)


@torch.no_grad()
def _outputs(evaluator: Evaluator) -> dict[str, float]:
    """Looks at the outputs and input gradients of one batch."""
    batch = evaluator.batch()
    with strict_float32(batch.x.device), without_weight_gradients(evaluator.network):
        logits, again = evaluator.logits(batch.x), evaluator.logits(batch.x)
        correct = logits.argmax(1) == batch.y
        gradient = _gradient(evaluator.logits, batch.x, batch.y)[correct]
    top = logits.topk(2, dim=1).values
    within = (logits >= -1e-5).all(1) & (logits <= 1 + 1e-5).all(1)
    distribution = within & ((logits.sum(1) - 1).abs() < 1e-3)
    scale = logits.abs().amax().clamp(min=1e-30)
    figures = {
        "deterministic": (logits - again).abs().amax() / scale,
        "logits-not-probabilities": distribution.float().mean(),
        "logit-scale": (top[:, 0] - top[:, 1]).median(),
    }
    if correct.any():
        figures["gradients-not-zero"] = (gradient.flatten(1).abs().amax(1) <= _ZERO).float().mean()
    return {name: float(figure) for name, figure in figures.items()}


def _gradient(logits: Logits, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(logits(x), y, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


class _Suite:
    """The attacks that are compared with each other."""

    def __init__(self, evaluator: Evaluator, threat: ThreatModel, *, classes: int, steps: int) -> None:
        self._evaluator = evaluator
        self._threat = threat
        self._classes = classes
        self._steps = steps

    def pgd(self, threat: ThreatModel) -> Attack:
        return self._build("pgd", threat=threat, steps=self._steps)

    def quick(self) -> dict[str, float]:
        iterative = self.pgd(self._threat)
        return {
            "iterative-beats-one-step": self._gap(iterative, self._build("pgd", steps=1)),
            "noise-weaker": self._missed([iterative], self._build("noise", steps=self._steps)),
        }

    def full(self, surrogate: Logits | None, queries: int) -> dict[str, float]:
        steps, iterative = self._steps, self.pgd(self._threat)
        longer = self._build("pgd", steps=2 * steps)
        restarted = self._build("pgd", steps=steps, restarts=RESTARTS)
        white_box = [iterative, longer, restarted]
        figures = {
            "more-steps": self._gap(iterative, longer),
            "more-restarts": self._gap(iterative, restarted),
        }
        if library_version() is not None:
            if self._classes > 2:
                on_ce, on_dlr = self._build("apgd-ce"), self._build("apgd-dlr")
                white_box += [on_ce, on_dlr]
                figures["ce-against-dlr"] = self._gap(on_ce, on_dlr)
            figures["square-weaker"] = self._missed(white_box, self._build("square", steps=queries))
        if surrogate is not None:
            transferred = self._build("transfer", steps=steps, surrogate=surrogate)
            figures["transfer-weaker"] = self._missed(white_box, transferred)
        return figures

    def control(self, network: nn.Module, eps: float) -> float:
        """Returns the accuracy of the undefended control at a radius."""
        beside = self._evaluator.on(self._evaluator.images, label="control", network=network)
        return beside.accuracy(self.pgd(self._threat.with_eps(eps)))

    def _build(
        self,
        name: str,
        *,
        threat: ThreatModel | None = None,
        steps: int | None = None,
        restarts: int = 1,
        surrogate: Logits | None = None,
    ) -> Attack:
        return build_attack(
            name, threat or self._threat, seed=self._evaluator.measurement.seed, classes=self._classes,
            steps=steps, restarts=restarts, surrogate=surrogate,
        )  # fmt: skip

    def _gap(self, one: Attack, other: Attack) -> float:
        return self._evaluator.row(one).accuracy - self._evaluator.row(other).accuracy

    def _missed(self, white_box: Sequence[Attack], weaker: Attack) -> float:
        """Returns the share of images that an attack with less knowledge takes and no white-box one does."""
        missed = set.intersection(*(set(self._evaluator.survivors(attack)) for attack in white_box))
        return len(missed - set(self._evaluator.survivors(weaker))) / len(self._evaluator.images)


def _control_figure(control: Sequence[Row], threat: ThreatModel) -> dict[str, float]:
    rows = [row for row in control if row.norm == threat.norm and row.eps is not None]
    if not rows:
        return {}
    eps, accuracy = max((row.eps or 0.0, row.accuracy) for row in rows)
    limit = KINDS["control-falls"].limit or 0.0
    conclusive = accuracy <= limit or eps >= CONTROL_RADIUS * threat.eps
    return {"control-falls": accuracy} if conclusive else {}


def _curve_figures(curve: Sequence[Row]) -> dict[str, float]:
    ascending = sorted(curve, key=lambda row: row.eps or 0.0)
    rises = [after.accuracy - before.accuracy for before, after in pairwise(ascending)]
    return {"falls-with-eps": max(rises, default=0.0), "reaches-chance": ascending[-1].accuracy}
