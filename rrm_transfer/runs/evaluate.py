"""Measuring any model on any data: what the evaluate command does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from rrm_transfer import __version__
from rrm_transfer.attacks.attack import CLEAN, Attack
from rrm_transfer.attacks.autoattack import library_version
from rrm_transfer.attacks.catalogue import STEPS, build_attack, check_attack_names, pgd_attack
from rrm_transfer.attacks.corruptions import check_corruptions_usable, corruptions_version
from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.names import public_name
from rrm_transfer.core.quantities import Proportion, format_eps
from rrm_transfer.core.threat import Norm, ThreatModel
from rrm_transfer.core.weights import weights_hash
from rrm_transfer.data.fit import Fit, choose_fit
from rrm_transfer.data.images import ImageSet
from rrm_transfer.runs.setup import automatic_size
from rrm_transfer.evaluation.checks import Level, parse_level, run_checks
from rrm_transfer.evaluation.corruptions import measure_corruptions
from rrm_transfer.evaluation.scales import eps_curve
from rrm_transfer.runs.evaluated import (
    SPLITS,
    load_control,
    load_data,
    load_network,
    load_surrogate,
    part_of,
)
from rrm_transfer.evaluation.evaluator import Evaluator, balanced_sample
from rrm_transfer.evaluation.state import EvaluationState
from rrm_transfer.runtime.interruption import StopRequest
from rrm_transfer.evaluation.metrics import MODELS, CorruptionRow, Metrics, Model, Row, read_metrics, row
from rrm_transfer.runs.models import ModelFacts, facts_about
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.runtime.processes import Runtime
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
        seed: Of everything random.
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
    model: str,
    *,
    dataset: str | None = None,
    split: str = "test",
    attacks: Sequence[str] = ("none", "pgd"),
    norm: str | None = None,
    eps: Sequence[float] | None = None,
    steps: int | None = None,
    restarts: int = 1,
    images: int | None = None,
    batch_size: int = 250,
    seed: int = 0,
    output: Path | None = None,
    resume: bool = False,
    surrogate: str | None = None,
    curve: bool = False,
    checks: str = "quick",
    corruptions: bool = False,
    arch: str | None = None,
    weights: Path | None = None,
    normalisation: str | None = None,
    allow_code: bool = False,
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
        batch_size: Images per forward pass and process. AutoAttack's random numbers depend on it.
        seed: Of everything random.
        output: A JSON file; None: ``evaluations/`` of a run folder, else nowhere.
        resume: Continues an interrupted evaluation; starts where there is none.
        surrogate: A model to transfer perturbations from; None: the teacher, where the model is a run folder.
        curve: Whether PGD is run from eps 0 up to where the model only guesses.
        checks: ``none``, ``quick`` or ``full``; see ``evaluation.checks``.
        corruptions: Whether accuracy under common corruptions is measured too.
        arch: Architecture of a weights file.
        weights: File that replaces the model's.
        normalisation: Of the model's input, where its source does not tell it.
        allow_code: Whether the model's ``package.module:factory`` may be imported and called.
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
    runtime = Runtime()
    narrator = narrator if narrator is not None and runtime.is_main else Narrator()
    with StopRequest():
        known = facts_about(model)
        data = load_data(model, dataset, known, narrator)
        fit = choose_fit(data.test.size, known.image_size or automatic_size(data))
        network = load_network(
            model, data, fit, narrator, arch=arch, weights=weights, normalisation=normalisation,
            allow_code=allow_code,
        )  # fmt: skip
        part = part_of(data, split)
        indices = balanced_sample(part.labels, images)
        chosen = part if indices is None else part.select(indices)
        ball = cast(Norm, norm or known.norm or "Linf")
        radii = tuple(dict.fromkeys(eps or [known.eps_in(ball)]))
        threats = tuple(ThreatModel.asked(ball, radius) for radius in radii)
        wanted = Wanted(attacks, threats, steps, restarts, seed, curve, level, corruptions)
        if curve and not wanted.main_threat.eps:
            raise UserError("A curve needs a radius above 0.", received="--eps 0 --curve")
        if corruptions:
            check_corruptions_usable(data.channels, fit.size)
        rival = undefended = None
        if surrogate is not None or wanted.uses_surrogate:
            required = "transfer" in attacks
            rival = load_surrogate(surrogate, known, data, fit, narrator, required=required)
        if wanted.uses_control:
            undefended = load_control(known, data, fit, narrator)

        itself = (arch, weights, normalisation) == (None, None, None)
        if output is None and known.run is not None and not itself:
            narrator.warn("this is not the run's own network: nothing is kept in its folder; name --output")
        elif output is None and known.run is not None:
            part_name = "" if known.part == "student" else f"{known.part}-"
            output = known.run.evaluations / (
                part_name + _file_name(wanted, data.name, split, len(chosen), surrogate)
            )
        networks = {"weights": network, "surrogate": rival, "control": undefended}
        conditions = _conditions(wanted, networks, data.name, chosen, fit, batch_size, split, runtime)
        state = _open_state(output, conditions, runtime, resume=resume)
        role: Model = next((model for model in MODELS if model == known.part), "student")
        evaluator = Evaluator(
            network, chosen, role=role, split=split, fit=fit, batch_size=batch_size, runtime=runtime,
            narrator=narrator, state=state,
        )  # fmt: skip
        try:
            metrics = _measure(wanted, evaluator, rival, data.num_classes, _control_rows(known), undefended)
        except Interrupted as stopped:
            raise Interrupted(f"{stopped}\n  next:     {_how_to_continue(output)}") from None
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
    rival = None if surrogate is None else surrogate.to(evaluator.runtime.device).logits
    build = partial(
        build_attack, seed=wanted.seed, classes=classes, steps=wanted.steps, restarts=wanted.restarts,
        surrogate=rival,
    )  # fmt: skip
    names = [name for name in wanted.attacks if name != "none"]
    by_threat = {threat: [build(name, threat) for name in names] for threat in wanted.threats}
    evaluator.run([CLEAN, *(attack for attacks in by_threat.values() for attack in attacks)])
    rows = [evaluator.row(CLEAN)]
    for threat, attacks in by_threat.items():
        rows += [evaluator.row(attack) for attack in attacks]
        if len(attacks) > 1:
            rows.append(_worst_case(evaluator, threat, attacks))

    def pgd(threat: ThreatModel) -> Attack:
        steps = wanted.steps or STEPS
        return pgd_attack(threat, steps=steps, restarts=wanted.restarts, seed=wanted.seed)

    curve = eps_curve(evaluator, wanted.main_threat, pgd, classes=classes) if wanted.curve else []
    rows += [point for point in curve if point not in rows]
    checks = run_checks(
        wanted.checks, evaluator, wanted.main_threat, classes=classes, steps=wanted.steps or STEPS,
        seed=wanted.seed, surrogate=rival, curve=curve, control=control, undefended=undefended,
    )  # fmt: skip
    timing: dict[str, Any] = {"attacks": evaluator.seconds}
    corrupted: list[CorruptionRow] = []
    if wanted.corruptions:
        corrupted, timing["corruptions"] = measure_corruptions(evaluator, seed=wanted.seed)
    return Metrics(
        rows,
        timing=timing,
        checks=[check.to_json() for check in checks],
        survivors=evaluator.survivors_by_stage,
        corruptions=corrupted,
    )


def _worst_case(evaluator: Evaluator, threat: ThreatModel, attacks: Sequence[Attack]) -> Row:
    survivors = set.intersection(*(set(evaluator.survivors(attack)) for attack in attacks))
    return row(
        evaluator.role,
        evaluator.split,
        Proportion(len(survivors), len(evaluator.images)),
        kept=survivors,
        attack=WORST,
        norm=threat.norm,
        eps=threat.eps,
    )


def _control_rows(known: ModelFacts) -> list[Row]:
    """Returns the figures of the undefended control that was trained beside a run's student."""
    if known.run is None or not known.run.is_finished:
        return []
    return [row for row in read_metrics(known.run.metrics).of("control") if row.attack == "pgd"]


def _file_name(wanted: Wanted, dataset: str, split: str, count: int, surrogate: str | None) -> str:
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
        str(count),
    ]
    return "-".join(words).replace("/", "-") + ".json"


def _conditions(
    wanted: Wanted,
    networks: dict[str, Teacher | None],
    dataset: str,
    images: ImageSet,
    fit: Fit,
    batch_size: int,
    split: str,
    runtime: Runtime,
) -> dict[str, Any]:
    """Returns everything that the figures depend on."""
    return {
        "rrm-transfer": __version__,
        "torch": torch.__version__,
        "pyautoattack": library_version(),
        "device": runtime.device.type,
        **{name: None if model is None else _weights_hash(model) for name, model in networks.items()},
        "dataset": dataset,
        "data": images.fingerprint,
        "split": split,
        "fit": fit.describe(images.size),
        "attacks": list(wanted.attacks),
        "norm": wanted.main_threat.norm,
        "eps": [threat.eps for threat in wanted.threats],
        "steps": wanted.steps,
        "restarts": wanted.restarts,
        "batch_size": batch_size,
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
    state = EvaluationState(output.with_name(f"{output.stem}.state.json"), conditions)
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
