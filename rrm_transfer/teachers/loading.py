"""From a source, as the user wrote it, to a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.pixels import PixelStatistics, parse_statistics
from rrm_transfer.teachers.checkpoints import Checkpoint, open_checkpoint
from rrm_transfer.teachers.networks import Blueprint, adapt, build_model
from rrm_transfer.teachers.origins import Origin
from rrm_transfer.teachers.sources import find_origin
from rrm_transfer.teachers.strictness import load_strictly
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.teachers.view import View


def load_teacher(
    source: str,
    *,
    channels: int,
    image_size: int,
    arch: str | None = None,
    weights: Path | None = None,
    normalisation: str | None = None,
    allow_code: bool = False,
    features_only: bool = False,
) -> Teacher:
    """Loads a teacher, frozen.

    Args:
        source: A zoo name, a timm name, ``hf-hub:user/name``, ``local-dir:PATH``, a run folder, a weights
            file, or ``package.module:factory``.
        channels: Of the data.
        image_size: Side in pixels of the data.
        arch: The architecture, where the source does not say it.
        weights: A file that replaces the source's.
        normalisation: ``none``, ``imagenet``, ``cifar10`` or ``mean/std``; overrides what the source says.
        allow_code: Whether ``package.module:factory`` may be imported and called.
        features_only: Whether only the representation will be used, so that a classifier is not needed.

    Raises:
        UserError: The source is unknown, its weights cannot be had, are unsafe to read or do not fit, or its
            normalisation is not known.
    """
    origin = find_origin(source, arch=arch, weights=weights)
    checkpoint = open_checkpoint(origin.file, sha256=origin.sha256)
    blueprint = Blueprint(origin.architecture or "", origin.args)
    statistics, said_by = _statistics(normalisation, checkpoint, origin)
    model = build_model(blueprint, allow_code=allow_code)
    report = load_strictly(model, checkpoint.tensors, source=str(origin.file))
    view = View((channels, blueprint.args.get("in_chans", 3)), (image_size, origin.image_size))
    side = view.size[1] or image_size
    return Teacher(
        adapt(model, torch.rand(2, view.channels[1], side, side)),
        name=origin.name,
        architecture=blueprint.architecture,
        statistics=statistics,
        view=view,
        has_classifier=not features_only,
        class_names=origin.class_names,
        published=cast(str | None, origin.facts.get("published")),
        metrics=origin.metrics,
        provenance={
            "source": source,
            "file": origin.file.name,
            "sha256": checkpoint.sha256,
            "stem": blueprint.stem,
            "form": list(checkpoint.form),
            "load": report.counts(),
            "normalisation_from": said_by,
            **origin.facts,
        },
    )


def _statistics(
    normalisation: str | None, checkpoint: Checkpoint, origin: Origin
) -> tuple[PixelStatistics, str]:
    if normalisation is not None:
        return parse_statistics(normalisation), "the user"
    if checkpoint.statistics is not None:
        return checkpoint.statistics, "the weights file"
    if origin.statistics is not None:
        return origin.statistics, "the source's description"
    raise UserError(
        "Nothing says how the teacher's input is normalised, and a wrong guess would ruin it silently.",
        received=origin.file,
        allowed="none (the network takes pixels in [0, 1]), imagenet, cifar10, or mean/std",
        hint="--teacher-normalisation none|imagenet|cifar10|mean/std",
    )
