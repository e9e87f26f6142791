"""Measuring any model on any data: what the evaluate command does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import format_eps
from rrm_transfer.core.threat import Norm, ThreatModel
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.images import DataSet, ImageSet
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.engine.assembly import automatic_size
from rrm_transfer.engine.evaluation import PGDSpec, balanced_sample, measure
from rrm_transfer.engine.metrics import Metrics
from rrm_transfer.engine.model_facts import facts_about
from rrm_transfer.engine.progress import Narrator
from rrm_transfer.engine.run_folder import RunFolder
from rrm_transfer.engine.runtime import Runtime
from rrm_transfer.teachers.loading import load_teacher

ATTACKS = ("none", "pgd")
SPLITS = ("test", "train", "held-out")


def evaluate(
    model: str,
    *,
    dataset: str | None,
    split: str,
    attacks: Sequence[str],
    norm: str | None,
    eps: Sequence[float] | None,
    steps: int,
    restarts: int,
    images: int | None,
    batch_size: int,
    seed: int,
    output: Path | None,
    arch: str | None = None,
    weights: Path | None = None,
    normalisation: str | None = None,
    narrator: Narrator | None = None,
) -> tuple[Metrics, Path | None]:
    """Measures a model.

    Args:
        model: A run folder, or anything that ``--teacher`` takes.
        dataset: None: what the model was trained on.
        split: ``test``, ``train`` or ``held-out``.
        attacks: Of ``none`` and ``pgd``.
        norm: None: the norm of the model's threat model, else Linf.
        eps: Radii in pixel units; None: the model's, else 8/255.
        steps: Of PGD.
        restarts: Of PGD.
        images: A balanced sample of this size; None: all.
        batch_size: Images per forward pass and process.
        seed: Of random starts.
        output: A JSON file; None: ``evaluations/`` of a run folder, else nowhere.
        arch: Architecture of a weights file.
        weights: File that replaces the model's.
        normalisation: Of the model's input, where its source does not tell it.
        narrator: Says what happens.

    Returns:
        The metrics, and the file that this process wrote them to.

    Raises:
        UserError: The model, the data or an argument cannot be used.
    """
    _check_choice("attack", attacks, ATTACKS)
    _check_choice("split", [split], SPLITS)
    runtime = Runtime()
    narrator = narrator if narrator is not None and runtime.is_main else Narrator()
    folder = RunFolder(Path(model))
    known = facts_about(model)
    norm = norm or known.norm or "Linf"
    eps = eps or [known.eps or 8 / 255]
    dataset = dataset or known.dataset
    if not dataset:
        raise UserError("The data set is not known.", received=model, hint="name it: --dataset D")

    data = load_dataset_by_name(dataset, held_out=known.held_out, seed=known.seed)
    fit = choose_fit(data.test.size, known.image_size or automatic_size(data))
    network = load_teacher(
        model, arch=arch, weights=weights, normalisation=normalisation, channels=data.channels,
        image_size=fit.size,
    )  # fmt: skip
    if network.num_classes != data.num_classes:
        raise UserError(
            "The model's classes do not fit the data.",
            received=f"{network.num_classes} classes of the model, {data.num_classes} of {data.name}",
            hint="another --dataset",
        )
    part = _part(data, split)
    indices = balanced_sample(part.labels, images)
    chosen = part if indices is None else part.select(indices)
    specs = [PGDSpec(ThreatModel(cast(Norm, norm), radius), steps, restarts) for radius in eps]
    rows = measure(
        network, chosen, specs if "pgd" in attacks else [], role="student", split=split, fit=fit,
        batch_size=batch_size, seed=seed, runtime=runtime, narrator=narrator,
    )  # fmt: skip
    metrics = Metrics(rows, indices, chosen.fingerprint)
    if output is None and folder.is_started:
        radii = "-".join(format_eps(radius).replace("/", "of") for radius in eps)
        output = (
            folder.path
            / "evaluations"
            / f"{data.name}-{split}-{norm}-{radii}-{steps}x{restarts}-{len(chosen)}.json"
        )
    if output is not None and runtime.is_main:
        metrics.write(output)
    return metrics, output if runtime.is_main else None


def _part(data: DataSet, split: str) -> ImageSet:
    part = {"test": data.test, "train": data.train, "held-out": data.held_out}[split]
    if part is None:
        raise UserError("The data have no held-out part.", received=data.name, allowed="test, train")
    return part


def _check_choice(what: str, received: Sequence[str], allowed: Sequence[str]) -> None:
    for value in received:
        if value not in allowed:
            raise UserError(f"Unknown {what}.", received=value, allowed=allowed)
