"""Measuring any model on any data: what the evaluate command does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from rrm_transfer import __version__
from rrm_transfer.attacks.attack import CLEAN, Attack
from rrm_transfer.attacks.autoattack import MINIMUM, library_version
from rrm_transfer.attacks.catalogue import STEPS, build_attack, check_attack_names
from rrm_transfer.attacks.corruptions import check_corruptions_usable, corruptions_version
from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.files import place_of, require_writable
from rrm_transfer.core.names import public_name
from rrm_transfer.core.quantities import Proportion, format_eps
from rrm_transfer.core.threat import Norm, ThreatModel
from rrm_transfer.core.weights.identity import weights_hash
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.images import ImageSet
from rrm_transfer.evaluation.checks import Level, parse_level, run_checks
from rrm_transfer.evaluation.evaluator import Evaluator, Measurement
from rrm_transfer.evaluation.metrics import (
    MODELS,
    CorruptionRow,
    Metrics,
    MinimumRow,
    Model,
    Row,
    is_evaluation,
    read_metrics,
    row,
)
from rrm_transfer.evaluation.scales import eps_curve, measure_corruptions, measure_minima
from rrm_transfer.evaluation.state import EvaluationState
from rrm_transfer.recipe.schema import TeacherSection
from rrm_transfer.runs.models import SPLITS, ModelFacts, load_control, load_surrogate, load_with_data
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.interruption import StopRequest
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.teachers.teacher import Teacher

WORST = "worst-case"
"""The row of the images that survive every attack that ran in the same ball."""


@dataclass(frozen=True)
class Wanted:
    """What is to be measured.

    Attributes:
        attacks: Names.
        threats: Balls; the first nonzero one is that of the curve and the checks.
        steps: None: what is customary for each attack.
        restarts: 1 or more.
        seed: Of random starts, noise and corruptions.
        curve: Whether an eps curve is measured.
        checks: How many checks are made.
        corruptions: Whether accuracy under common corruptions is measured.
    """

    attacks: tuple[str, ...]
    threats: tuple[ThreatModel, ...]
    steps: int | None
    restarts: int
    seed: int
    curve: bool
    checks: Level
    corruptions: bool

    @property
    def main_threat(self) -> ThreatModel:
        return next((threat for threat in self.threats if threat.eps > 0), self.threats[0])

    @property
    def uses_surrogate(self) -> bool:
        return "transfer" in self.attacks or self.checks == "full"

    @property
    def uses_control(self) -> bool:
        return self.curve or self.checks == "full"


def evaluate(
    model: str | Path,
    *,
    dataset: str | None = None,
    split: str = "test",
    attacks: Sequence[str] = ("none", "pgd"),
    norm: str | None = None,
    eps: Sequence[float] | None = None,
    steps: int | None = None,
    restarts: int = 1,
    images: int | None = None,
    skip: int = 0,
    batch_size: int = 250,
    seed: int = 0,
    output: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    surrogate: str | None = None,
    curve: bool = False,
    checks: str = "quick",
    corruptions: bool = False,
    arch: str | None = None,
    weights: Path | None = None,
    normalization: str | None = None,
    allow_code: frozenset[str] = frozenset(),
    narrator: Narrator | None = None,
) -> tuple[Metrics, Path | None]:
    """Measures a model.

    Args:
        model: A run folder, or anything that ``--teacher`` takes.
        dataset: None: what the model was trained on.
        split: ``test``, ``train`` or ``held-out``.
        attacks: Names from ``attacks.catalogue.ATTACKS``; clean accuracy is always measured.
        norm: None: the norm of the model's threat model, else Linf.
        eps: Radii in pixel units; None: the model's, else 8/255.
        steps: None: what is customary for each attack. AutoAttack's suites have their own.
        restarts: Of PGD, APGD and the transfer attack.
        images: A balanced sample of this size; None: all.
        skip: Leaves out the balanced sample of this size, such as the one that chose a recipe.
        batch_size: Images per forward pass and process. AutoAttack's random numbers depend on it.
        seed: Of random starts, noise and corruptions.
        output: A JSON file; None: ``evaluations/`` of a run folder, else nowhere.
        overwrite: Replaces a file that stands there and is no evaluation.
        resume: Continues an interrupted evaluation; starts where there is none.
        surrogate: A model to transfer perturbations from; None: the teacher, where the model is a run folder.
        curve: Whether PGD is run from eps 0 up to where the model only guesses.
        checks: ``none``, ``quick`` or ``full``; see ``evaluation.checks``.
        corruptions: Whether accuracy under common corruptions is measured too.
        arch: Architecture of a weights file.
        weights: File that replaces the model's.
        normalization: Of the model's input, where its source does not tell it.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.
        narrator: Says what happens.

    Returns:
        The metrics, and the file that this process wrote them to.

    Raises:
        UserError: The model, the data or an argument cannot be used.
        Interrupted: It was asked to stop; ``resume`` continues it where there is an output.
    """
    attacks = tuple(dict.fromkeys(attacks))
    check_attack_names(attacks)
    level = parse_level(checks) if set(attacks) != {"none"} else "none"
    if split not in SPLITS:
        raise UserError("Unknown split.", received=split, allowed=SPLITS)
    context = Context.begin(narrator)
    runtime = context.runtime
    source = TeacherSection(name=str(model), arch=arch, weights=weights, normalization=normalization)
    with StopRequest():
        # The model and its data, loaded as every command loads them; then which images and which balls.
        known, data, network = load_with_data(source, dataset, context, allow_code=allow_code)
        part = data.part(split)
        chosen = part.balanced(images, skip=skip)
        ball = cast(Norm, norm or known.norm or "Linf")
        radii = tuple(dict.fromkeys(eps or [known.eps_in(ball)]))
        threats = tuple(ThreatModel.asked(ball, radius) for radius in radii)
        wanted = Wanted(attacks, threats, steps, restarts, seed, curve, level, corruptions)
        if curve and not wanted.main_threat.eps:
            raise UserError("A curve needs a radius above 0.", received="--eps 0 --curve")
        if corruptions:
            check_corruptions_usable(data.images.channels, data.image_size)

        # The networks that it is compared with: what perturbations are transferred from, and the control that
        # shows what the attack does to a network without a defense.
        helper = undefended = None
        if surrogate is not None or wanted.uses_surrogate:
            required = "transfer" in attacks
            helper = load_surrogate(surrogate, known, data, context, required=required)
        if wanted.uses_control:
            undefended = load_control(known, data, context)

        # Where figures are kept, and what they depend on: a stopped evaluation goes on only under the same.
        if output is None and known.run is not None:
            if source.is_itself:
                prefix = "" if known.part == "student" else f"{known.part}-"
                count = f"skip{skip}-{len(chosen)}" if skip else str(len(chosen))
                name = _file_name(wanted, data.images.name, split, count, surrogate)
                output = known.run.evaluations / f"{prefix}{name}"
            else:
                context.narrator.warn(
                    "this is not the run's own network: nothing is kept in its folder; name --output"
                )
        if output is not None:
            require_writable(output, overwrite=overwrite, ours=is_evaluation)
        measurement = Measurement(data.image_size, batch_size, seed, context, runtime.decoding_workers)
        networks = {"weights": network, "surrogate": helper, "control": undefended}
        conditions = _conditions(wanted, networks, measurement, data.images.name, split, chosen)
        state = _open_state(output, conditions, runtime, resume=resume)
        model_name: Model = next((name for name in MODELS if name == known.part), "student")
        evaluator = Evaluator(network, chosen, measurement, model=model_name, split=split, state=state)
        try:
            metrics = _measure(
                wanted, evaluator, helper, data.images.num_classes, _control_rows(known), undefended
            )
        except Interrupted as stopped:
            raise Interrupted(f"{stopped}\n  next:     {_how_to_continue(output)}") from None
    indices = part.positions_of(chosen)
    metrics = replace(metrics, indices=indices, data=chosen.fingerprint, conditions=conditions)
    if output is not None and runtime.is_main:
        metrics.write(output)
        state.remove()
    return metrics, output if runtime.is_main else None


def _measure(
    wanted: Wanted,
    evaluator: Evaluator,
    surrogate: Teacher | None,
    classes: int,
    control: Sequence[Row],
    undefended: Teacher | None,
) -> Metrics:
    transferred = None if surrogate is None else surrogate.to(evaluator.runtime.device).logits
    build = partial(
        build_attack, seed=wanted.seed, classes=classes, steps=wanted.steps, restarts=wanted.restarts,
        surrogate=transferred,
    )  # fmt: skip
    names = [name for name in wanted.attacks if name not in ("none", MINIMUM)]
    by_threat = {threat: [build(name, threat) for name in names] for threat in wanted.threats}
    evaluator.run([CLEAN, *(attack for attacks in by_threat.values() for attack in attacks)])
    minima: list[MinimumRow] = []
    if MINIMUM in wanted.attacks:
        minima.append(measure_minima(evaluator, wanted.main_threat, partial(build, MINIMUM)))
    rows = [evaluator.row(CLEAN)]
    for threat, attacks in by_threat.items():
        found = [*map(evaluator.row, attacks), *(minimum.within(threat.eps) for minimum in minima)]
        rows += [*found, *([_worst_case(found)] if len(found) > 1 else [])]

    def pgd(threat: ThreatModel) -> Attack:
        return evaluator.measurement.pgd(threat, steps=wanted.steps or STEPS, restarts=wanted.restarts)

    curve = eps_curve(evaluator, wanted.main_threat, pgd, classes=classes) if wanted.curve else []
    rows += [point for point in curve if point not in rows]
    checks = run_checks(
        wanted.checks, evaluator, wanted.main_threat, classes=classes, steps=wanted.steps or STEPS,
        surrogate=transferred, curve=curve, control=control, undefended=undefended,
    )  # fmt: skip
    timing: dict[str, Any] = {"attacks": evaluator.seconds}
    corrupted: list[CorruptionRow] = []
    if wanted.corruptions:
        corrupted, timing["corruptions"] = measure_corruptions(evaluator)
    return Metrics(
        rows,
        timing=timing,
        checks=[check.to_json() for check in checks],
        survivors=evaluator.survivors_by_stage,
        corruptions=corrupted,
        minima=minima,
    )


def _worst_case(rows: Sequence[Row]) -> Row:
    """Returns the accuracy on the images that are right in every row; all are of one ball."""
    right = np.logical_and.reduce([known for each in rows if (known := each.right()) is not None])
    kept, first = np.flatnonzero(right).tolist(), rows[0]
    return row(
        first.model, first.split, Proportion(len(kept), first.count), kept=kept, attack=WORST,
        norm=first.norm, eps=first.eps,
    )  # fmt: skip


def _control_rows(known: ModelFacts) -> list[Row]:
    """Returns the figures of the undefended control that was trained beside a run's student."""
    if known.run is None or not known.run.is_finished:
        return []
    return [row for row in read_metrics(known.run.metrics).of("control") if row.attack == "pgd"]


def _file_name(wanted: Wanted, dataset: str, split: str, count: str, surrogate: str | None) -> str:
    words = [
        dataset,
        split,
        "+".join(wanted.attacks),
        wanted.main_threat.norm,
        "-".join(format_eps(threat.eps).replace("/", "of") for threat in wanted.threats),
        *([f"{wanted.steps or STEPS}x{wanted.restarts}"] if wanted.steps or wanted.restarts > 1 else []),
        *(["curve"] if wanted.curve else []),
        *(["corruptions"] if wanted.corruptions else []),
        *([f"from-{public_name(surrogate)}"] if surrogate else []),
        *([f"seed{wanted.seed}"] if wanted.seed else []),
        count,
    ]
    return "-".join(words).replace("/", "-") + ".json"


def _conditions(
    wanted: Wanted,
    networks: dict[str, Teacher | None],
    measurement: Measurement,
    dataset: str,
    split: str,
    images: ImageSet,
) -> dict[str, Any]:
    """Returns everything that the figures depend on."""
    return {
        "rrm-transfer": __version__,
        "torch": torch.__version__,
        "pyautoattack": library_version(),
        "device": measurement.context.runtime.device.type,
        **{name: None if model is None else _weights_hash(model) for name, model in networks.items()},
        "dataset": dataset,
        "data": images.fingerprint,
        "split": split,
        "fit": choose_fit(images.size, measurement.image_size).describe(images.size),
        "attacks": list(wanted.attacks),
        "norm": wanted.main_threat.norm,
        "eps": [threat.eps for threat in wanted.threats],
        "steps": wanted.steps,
        "restarts": wanted.restarts,
        "batch_size": measurement.batch_size,
        "seed": wanted.seed,
        "curve": wanted.curve,
        "checks": wanted.checks,
        "corruptions": corruptions_version() if wanted.corruptions else None,
    }


def _weights_hash(model: Teacher) -> str:
    return weights_hash([*model.named_parameters(), *model.named_buffers()])  # normalization included


def _open_state(
    output: Path | None, conditions: dict[str, Any], runtime: Runtime, *, resume: bool
) -> EvaluationState:
    """Opens the state beside the output; the main process reads and writes it, all know what is in it."""
    if output is None:
        if resume:
            raise UserError("There is nothing to resume.", hint="--output FILE.json names the evaluation")
        return EvaluationState(conditions=conditions)
    path = place_of(output.with_name(f"{output.stem}.state.json"))
    state = EvaluationState(path, conditions)
    problem: UserError | None = None
    if runtime.is_main:
        try:
            if resume:
                state.load()
            else:
                state.check_absent()
        except UserError as error:
            problem = error
    state.found, problem = runtime.from_main((state.found, problem))
    if problem is not None:
        raise problem
    return state if runtime.is_main else EvaluationState(conditions=conditions, found=state.found)


def _how_to_continue(output: Path | None) -> str:
    if output is None:
        return "nothing was kept; with --output FILE.json an evaluation can be resumed"
    return f"the same command with --output {output} --resume"
