"""From a source, as the user wrote it, to a teacher."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.pixels import PixelStatistics, parse_statistics
from rrm_transfer.teachers.checkpoints import Checkpoint, open_checkpoint
from rrm_transfer.teachers.networks import Blueprint, adapt, build_model
from rrm_transfer.teachers.networks.building import is_factory
from rrm_transfer.teachers.networks.probing import channels_taken, find_input
from rrm_transfer.teachers.origins import Origin
from rrm_transfer.teachers.planning import draw_plan
from rrm_transfer.teachers.sources import find_origin
from rrm_transfer.teachers.strictness import load_strictly, require_fit
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.teachers.view import View


def load_teacher(
    source: str | Path,
    *,
    channels: int,
    image_size: int,
    arch: str | None = None,
    weights: Path | None = None,
    normalization: str | None = None,
    allow_code: frozenset[str] = frozenset(),
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
        normalization: ``none``, ``imagenet``, ``cifar10`` or ``mean/std``; overrides what the source says.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.
        features_only: Whether only the representation will be used, so that a classifier is not needed.

    Raises:
        UserError: The source is unknown, its weights cannot be had, are unsafe to read or do not fit, or its
            normalization is not known.
    """
    source = str(source)
    origin = find_origin(source, arch=arch, weights=weights)
    checkpoint = open_checkpoint(origin.file, sha256=origin.sha256)
    plan = draw_plan(origin, checkpoint)
    if plan.blueprint.args.get("num_classes") == 0 and not features_only:
        raise UserError(
            "This network has no classifier, and a random one would teach nothing.",
            received=source,
            hint="use an objective that matches features only, such as label-free rrm",
        )
    statistics, said_by = find_statistics(normalization, checkpoint, origin)
    own_code = plan.blueprint.own_code
    # Without memory first: widths that a file names may be of any size.
    with nullcontext() if own_code else torch.device("meta"):
        model = build_model(plan.blueprint, allow_code=allow_code)
    dispensable = plan.classifier_names(model) if features_only else ()
    if not own_code:
        require_fit(model, plan.tensors, source=str(origin.file), dispensable=dispensable)
        model = build_model(plan.blueprint)
    report = load_strictly(model, plan.tensors, source=str(origin.file), dispensable=dispensable)
    # What a factory's network takes is found by trying: the data as they are, or in grey or RGB.
    own_channels = channels_taken(model.eval(), channels, image_size) if own_code else 3
    view = View((channels, plan.blueprint.args.get("in_chans", own_channels)), (image_size, plan.image_size))
    side = view.size[1] or image_size
    return Teacher(
        adapt(model, torch.rand(2, view.channels[1], side, side)),
        name=origin.name,
        architecture=plan.blueprint.architecture,
        statistics=statistics,
        view=view,
        has_classifier=not features_only,
        class_names=origin.class_names,
        provenance={
            "source": source,
            "file": origin.file.name,
            "sha256": checkpoint.sha256,
            "stem": plan.blueprint.stem,
            "arguments": dict(plan.blueprint.args),
            "form": list(plan.form),
            "load": report.counts(),
            "normalization_from": said_by,
            **origin.facts,
        },
    )


def own_size(architecture: str, *, allow_code: frozenset[str]) -> int | None:
    """Returns the side in pixels of the only images that a network of the user's own takes.

    None where it takes images of any size, or none of a usual one, or is not the user's own.

    Args:
        architecture: In the user's words.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.

    Raises:
        UserError: Its factory may not be called, or fails.
    """
    if not is_factory(architecture):
        return None
    model = build_model(Blueprint(architecture, own_code=True), allow_code=allow_code)
    takes = find_input(model.eval())
    return None if takes is None else takes.size


def find_statistics(
    normalization: str | None, checkpoint: Checkpoint, origin: Origin
) -> tuple[PixelStatistics, str]:
    """Returns the normalization and who said it: the user, the weights file, or the source.

    Raises:
        UserError: Nobody says it.
    """
    if normalization is not None:
        return parse_statistics(normalization), "the user"
    if checkpoint.statistics is not None:
        return checkpoint.statistics, "the weights file"
    if origin.statistics is not None:
        return origin.statistics, "the source's description"
    raise UserError(
        "Nothing says how the model's input is normalized, and a wrong guess would ruin it silently.",
        received=origin.file,
        allowed="none (the network takes pixels in [0, 1]), imagenet, cifar10, or mean/std",
        hint="--teacher-normalization none|imagenet|cifar10|mean/std",
    )
