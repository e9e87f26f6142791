"""AutoAttack (Croce and Hein, arXiv 2003.01690), its parts, and FAB as the search for a minimum.

All through the pyautoattack library.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from rrm_transfer.attacks.attack import GRADIENT_COST, Attack, Logits, Stage, Victims
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.threat import ThreatModel

STEPS = 100
"""Iterations of APGD and FAB in every version of the suite."""
QUERIES = 5000
"""Queries of Square in every version of the suite."""
TARGETS = 9
"""Target classes of APGD-T and FAB-T, where there are so many others."""

_VERSIONS = {"autoattack": "standard", "autoattack-plus": "plus", "autoattack-rand": "rand"}
_STAGES = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
_RESTARTS = {"standard": 1, "plus": 5, "rand": 1}
_EOT = 20
"""Gradients that the ``rand`` version averages in each step."""

PARTS = ("apgd", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")
SUITES = tuple(_VERSIONS)
MINIMUM = "minimum-norm"
_LEAST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
"""DLR divides by the gap to the third-largest logit, its targeted form to the fourth."""


def library_version() -> str | None:
    """Returns the version of pyautoattack, None where it is not installed."""
    try:
        return version("pyautoattack")
    except PackageNotFoundError:
        return None


def suite(name: str, threat: ThreatModel, *, seed: int, classes: int) -> Attack:
    """Makes AutoAttack.

    Its figures are those of one direct call, ``AutoAttack(model, norm=, eps=, seed=, version=)
    .run_standard_evaluation(x, y, batch_size=)`` on all images, image by image, for any number of
    processes. The library seeds itself anew for each stage and batch of survivors, always with the same
    number, so each of them is run by itself here, on the images and with the seed that it has there.

    Targets are all other classes, nine at most. The losses that need more classes than there are are left
    out, and the suite is then called ``…-reduced``.

    Args:
        name: ``autoattack`` (the standard version), ``autoattack-plus`` or ``autoattack-rand``.
        threat: The ball to search.
        seed: Given to the library as it is.
        classes: How many classes the logits have.

    Raises:
        UserError: The library is not installed, or there is only one class.
    """
    which = _VERSIONS[name]
    stages = tuple(stage for stage in _STAGES[which] if classes >= _least_classes(stage))
    _check_usable("apgd-ce", classes)
    restarts = _RESTARTS[which]
    return Attack(
        name if stages == _STAGES[which] else f"{name}-reduced",
        threat,
        STEPS,
        restarts,
        tuple(
            _stage(stage, threat, which, seed=seed, classes=classes, steps=STEPS, restarts=restarts)
            for stage in stages
        ),
    )


def part(
    name: str, threat: ThreatModel, *, seed: int, classes: int, steps: int | None, restarts: int
) -> Attack:
    """Makes one of AutoAttack's attacks alone.

    Args:
        name: ``apgd-ce`` (also ``apgd``), ``apgd-dlr``, ``apgd-t``, ``fab-t`` or ``square``.
        threat: The ball to search.
        seed: Given to the library as it is.
        classes: How many classes the logits have.
        steps: Iterations, or Square's queries; None: as in the suite.
        restarts: Restarts of APGD; FAB-T and Square have one.

    Raises:
        UserError: The library is not installed, or there are too few classes for the attack.
    """
    stage = "apgd-ce" if name == "apgd" else name
    _check_usable(stage, classes)
    steps = steps or (QUERIES if stage == "square" else STEPS)
    restarts = restarts if stage.startswith("apgd") else 1
    built = _stage(stage, threat, "custom", seed=seed, classes=classes, steps=steps, restarts=restarts)
    return Attack(name, threat, steps, restarts, (built,))


def minimum_norm(limit: ThreatModel, *, classes: int, steps: int | None) -> Attack:
    """Makes FAB (Croce and Hein, arXiv 1907.02044) a search for each image's smallest perturbation.

    As a part of AutoAttack it stops at the first point within eps; here it is left alone until it ends. Up to
    ``TARGETS`` other classes are looked at together; of more, the likeliest ``TARGETS`` one after another.

    Args:
        limit: What is farther away is not found.
        classes: How many classes the logits have.
        steps: Iterations; None: as in AutoAttack.

    Raises:
        UserError: The library is not installed, or there is only one class.
    """
    _check_usable(MINIMUM, classes)
    steps = steps or STEPS

    def perturb(logits: Logits, victims: Victims) -> Tensor:
        x, y = victims.x, victims.y
        fab = _library("fab", logits, x.device, limit, "custom", 0, classes, steps, 1).fab
        if classes - 1 <= TARGETS:
            result: Tensor = fab.attack_single_run(x, y)
            return result
        nearest, sizes = x.clone(), x.new_full((len(x),), torch.inf)
        for rank in range(2, TARGETS + 2):  # of the classes by their logits, the first being the image's own
            fab.target_class = rank
            found = fab.attack_single_run(x, y, is_targeted=True)
            lost = logits(found).argmax(1) != y
            size = limit.size(found - x).masked_fill(~lost, torch.inf)
            nearer = size < sizes
            nearest[nearer], sizes[nearer] = found[nearer], size[nearer]
        return nearest

    cost = (2 + 2 * classes) * steps if classes - 1 <= TARGETS else (GRADIENT_COST + 1) * steps * TARGETS
    stage = Stage(MINIMUM, cost, torch.no_grad()(perturb))
    return Attack(MINIMUM, limit, steps, None, (stage,), seeks_minimum=True)


@contextmanager
def library_warnings(say: Callable[[str], None]) -> Iterator[None]:
    """Passes on what the library warns about, each sentence once."""
    logger = logging.getLogger("auto-attack")
    handler = _Once(say)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


class _Once(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        # Sentences differ only in counts: "there are 3 points with zero gradient!"
        kind = "".join(letter for letter in record.getMessage() if not letter.isdigit())
        if kind not in self._said:
            self._said.add(kind)
            self._say(f"AutoAttack: {record.getMessage()}")


def _least_classes(stage: str) -> int:
    return _LEAST_CLASSES.get(stage, 2)


def _check_usable(stage: str, classes: int) -> None:
    try:
        import pyautoattack  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"This attack needs the pyautoattack library: {error}.",
            received=stage,
            hint='pip install "rrm-transfer[autoattack]"',
        ) from None
    if classes < _least_classes(stage):
        raise UserError(
            "The model has too few classes for this attack.",
            received=f"{stage}, {classes} classes",
            allowed=f"{_least_classes(stage)} classes or more",
            hint="--attack autoattack runs the attacks that suit the classes",
        )


def _stage(
    name: str, threat: ThreatModel, which: str, *, seed: int, classes: int, steps: int, restarts: int
) -> Stage:
    def perturb(logits: Logits, victims: Victims) -> Tensor:
        devices = [victims.x.device] if victims.x.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            library = _library(name, logits, victims.x.device, threat, which, seed, classes, steps, restarts)
            x_adv, _ = library.run_standard_evaluation(victims.x, victims.y, batch_size=len(victims.x))
        result: Tensor = x_adv
        return result

    targets = min(TARGETS, classes - 1)
    cost = {
        "apgd-t": GRADIENT_COST * steps * restarts * targets,
        "fab": (2 + 2 * classes) * steps * restarts,
        "fab-t": (GRADIENT_COST + 1) * steps * targets,
        "square": float(steps if which == "custom" else QUERIES),
    }.get(name, GRADIENT_COST * steps * restarts * (_EOT if which == "rand" else 1))
    return Stage(name, cost, perturb)


def _library(
    name: str,
    logits: Logits,
    device: torch.device,
    threat: ThreatModel,
    which: str,
    seed: int,
    classes: int,
    steps: int,
    restarts: int,
) -> Any:
    """Returns the library's object, set to run the attack ``name`` alone."""
    from pyautoattack import AutoAttack
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    suite = AutoAttack(logits, norm=threat.norm, eps=threat.eps, seed=seed, device=device, version=which)
    suite.attacks_to_run = [name]
    if which == "custom":
        common = {
            "n_iter": steps, "n_restarts": restarts, "eps": threat.eps, "norm": threat.norm, "rho": 0.75,
            "seed": seed, "device": device, "logger": suite.logger,
        }  # fmt: skip
        suite.apgd = APGDAttack(logits, **common)
        suite.apgd_targeted = APGDAttack_targeted(logits, **common)
        suite.fab.n_iter = steps
        suite.square.n_queries = steps
    targets = min(TARGETS, classes - 1)
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = targets
    return suite
