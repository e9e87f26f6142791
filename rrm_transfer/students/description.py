"""What an architecture would be as a student, told without building it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from timm.models import get_pretrained_cfg

from rrm_transfer.core.kinds import Kind
from rrm_transfer.core.parameters import count_parameters
from rrm_transfer.core.pixels import PixelStatistics
from rrm_transfer.students.names import resolve_student_name
from rrm_transfer.students.sizes import plan_input
from rrm_transfer.students.student import kind_of


@dataclass(frozen=True)
class StudentDescription:
    """An architecture as a student.

    Attributes:
        name: Exact timm name, with the tag if one was given.
        kind: How it is usually trained.
        image_size: Side of the images it is planned for, in pixels.
        channels: Of the images.
        width: Of the representation.
        classifier: The form of its classifier.
        projection: How the projection will be attached.
        folds_into: The layers that projection and classifier are written into on export.
        stock: Whether stock timm loads the export.
        parameters: Of the stock network.
        normalization: The pixel statistics that it will use.
        has_pretrained: Whether timm names weights to start from.
        model_args: What ``timm.create_model`` will be given beside classes and channels.
        notes: Automatic choices and warnings.
    """

    name: str
    kind: Kind
    image_size: int
    channels: int
    width: int
    classifier: str
    projection: str
    folds_into: tuple[str, ...]
    stock: bool
    parameters: int
    normalization: str
    has_pretrained: bool
    model_args: dict[str, object]
    notes: tuple[str, ...]


def describe_student(
    name: str,
    *,
    num_classes: int = 10,
    channels: int = 3,
    image_size: int | None = None,
    feature_width: int | None = None,
    args: Mapping[str, object] | None = None,
) -> StudentDescription:
    """Plans a student on the meta device, where no weights are made.

    Args:
        name: A timm architecture, short names and tags allowed.
        num_classes: Of the data.
        channels: Of the images.
        image_size: Their side in pixels; None for the architecture's own.
        feature_width: The teacher's; None where it is not known.
        args: For ``timm.create_model``, as in :func:`rrm_transfer.students.build_student`.

    Raises:
        UserError: As for :func:`rrm_transfer.students.build_student`.
    """
    exact = resolve_student_name(name)
    config = get_pretrained_cfg(exact)
    size = image_size or config.input_size[1]
    plan = plan_input(exact, num_classes=num_classes, channels=channels, image_size=size, args=args or {})
    leaves = tuple(leaf.path for leaf in plan.form.leaves)
    if feature_width is None:
        projection = f"a linear layer {plan.width} → the teacher's width, where that differs"
    elif feature_width == plan.width:
        projection = "none: the widths are equal"
    else:
        projection = f"a linear layer {plan.width} → {feature_width} between representation and classifier"
    return StudentDescription(
        name=exact,
        kind=kind_of(plan.model),
        image_size=size,
        channels=channels,
        width=plan.width,
        classifier=plan.form.form,
        projection=projection,
        folds_into=leaves,
        stock=plan.stem is None,
        parameters=count_parameters(plan.model),
        normalization=str(PixelStatistics(tuple(config.mean), tuple(config.std)).for_channels(channels)),
        has_pretrained=bool(config.has_weights),
        model_args=plan.args,
        notes=plan.notes,
    )
