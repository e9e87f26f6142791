"""What can be told about a teacher before it is used."""

from __future__ import annotations

from pathlib import Path

import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.pixels import parse_statistics
from rrm_transfer.core.stems import base_architecture
from rrm_transfer.teachers.checkpoints import open_checkpoint
from rrm_transfer.teachers.loading import find_statistics
from rrm_transfer.teachers.networks import adapt, build_model
from rrm_transfer.teachers.networks.probing import input_of
from rrm_transfer.teachers.planning import draw_plan
from rrm_transfer.teachers.sources import find_origin
from rrm_transfer.teachers.strictness import compare

_ANY_SIZE = 64


def inspect_teacher(
    source: str,
    *,
    arch: str | None = None,
    weights: Path | None = None,
    normalization: str | None = None,
    channels: int | None = None,
    image_size: int | None = None,
    allow_code: frozenset[str] = frozenset(),
) -> dict[str, object]:
    """Tells what a source holds. What would stop `load_teacher` is counted here, where it can be.

    Args:
        source: As `load_teacher` takes it.
        arch: The architecture, where the source does not say it.
        weights: A file that replaces the source's.
        normalization: Overrides what the source says.
        channels: That a network of the user's own takes; None: found by trying.
        image_size: Side in pixels of the images that it takes; None: found by trying.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.

    Returns:
        JSON values: ``architecture``, ``stem`` (``cifar`` or ``stock``), ``arguments`` of the constructor,
        ``width`` of the representation, ``classes``, ``channels``, ``image_size`` (null: the data's),
        ``normalization`` (``unknown`` where nothing says it), ``matched``, ``missing``, ``unexpected`` and
        ``wrong_shape`` counts, ``fits``, ``form``, ``file``, ``sha256``, ``class_names``, and what the zoo
        states.

    Raises:
        UserError: The source is unknown or unreadable, or its architecture cannot be told.
    """
    origin = find_origin(source, arch=arch, weights=weights)
    checkpoint = open_checkpoint(origin.file, sha256=origin.sha256)
    plan = draw_plan(origin, checkpoint)
    if normalization is not None:
        parse_statistics(normalization)  # what cannot be read is a mistake, not an unknown
    try:
        said = str(find_statistics(normalization, checkpoint, origin)[0])
    except UserError:
        said = "unknown"
    model = build_model(plan.blueprint, allow_code=allow_code)
    report = compare(model, plan.tensors)
    if plan.blueprint.own_code:
        taken, size = input_of(model.eval(), channels=channels, size=image_size)
    else:
        taken, size = plan.blueprint.args.get("in_chans", 3), plan.image_size
    sample = torch.rand(2, taken, size or _ANY_SIZE, size or _ANY_SIZE)
    with torch.no_grad():
        outputs = adapt(model.eval(), sample)(sample)
    return {
        "source": source,
        "architecture": base_architecture(plan.blueprint.architecture),
        "stem": plan.blueprint.stem,
        "arguments": dict(plan.blueprint.args),
        "width": outputs.features.shape[1],
        "classes": outputs.logits.shape[1],
        "channels": taken,
        "image_size": size,
        "normalization": said,
        **report.counts(),
        "fits": report.fits,
        "form": list(plan.form),
        "file": str(origin.file),
        "sha256": checkpoint.sha256,
        "class_names": None if origin.class_names is None else list(origin.class_names),
        **origin.facts,
    }
