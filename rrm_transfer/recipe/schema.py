"""The recipe's sections, their types and their defaults.

A value of ``None`` that is documented as "automatic" is filled in from the table of defaults (or from
the teacher's entry in the zoo) before training; the resolved recipe in the run folder has none left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import parse_fraction


def _quantity(value: Any) -> float:
    try:
        return parse_fraction(value)
    except UserError as error:
        raise ValueError(f"{error.what} Allowed: {error.allowed}") from None


Quantity = Annotated[float, BeforeValidator(_quantity)]
"""A number of 0 or more; ``8/255`` and ``5e-4`` are read, nothing is evaluated."""
Positive = Annotated[Quantity, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_one_or_several)]
"""A list of names; a single one may stand for itself."""


class Section(BaseModel):
    """A part of a recipe; keys that it does not know are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)


class CacheSection(Section):
    """The teacher's outputs on clean training images, computed once and read by any number of runs.

    Attributes:
        views: Augmented versions of each image; the epochs take them in turn.
        dtype: In which the outputs are stored.
        seed: Of the views' augmentation; None: the run's. Runs share a cache where it is the same.
    """

    views: Count
    dtype: Literal["float16", "bf16"] = "float16"
    seed: Annotated[int, Field(ge=0)] | None = None


class TeacherSection(Section):
    """The robust teacher.

    Attributes:
        name: A zoo name, a timm or hub name, a file, or a run folder of ours.
        arch: The architecture of a weights file, where its keys do not tell it.
        weights: A local file that replaces a download.
        normalisation: ``none``, ``imagenet``, ``cifar10`` or ``mean/std``, where the source does not tell it.
        features_only: Whether its classifier is left aside, so that its classes need not be the data's.
        check: Whether clean and short-PGD accuracy are measured before training.
        cache: None: the teacher runs beside the student.
    """

    name: str
    arch: str | None = None
    weights: Path | None = None
    normalisation: str | None = None
    features_only: bool = False
    check: bool = True
    cache: CacheSection | None = None


class StudentSection(Section):
    """The network to train.

    Attributes:
        name: A timm architecture, or the beginning of one.
        pretrained: Whether to start from timm's weights; None: automatic.
        weights: A local file to start from, instead of timm's hub.
        args: Arguments for ``timm.create_model``, such as ``output_stride: 8``; ``stem: cifar`` is ours.
        projection: ``auto`` inserts the linear layer only where widths differ; ``always`` inserts it.
        licence: Of the trained weights, as an SPDX or hub identifier; None: not stated.
    """

    name: str
    pretrained: bool | None = None
    weights: Path | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    projection: Literal["auto", "always"] = "auto"
    licence: str | None = None


class AugmentationSection(Section):
    """Random changes of training images, the same for teacher and student.

    Attributes:
        crop_padding: Pixels of zero padding before a random crop of the input size.
        flip: Mirror half of the images.
        jitter: Strength of brightness, contrast and saturation changes, in [0, 1].
        rotation: Largest rotation in degrees.
        random_resized_crop: Smallest and largest part of the area that a crop covers (large images).
        lighting: Standard deviation of AlexNet's colour noise.
    """

    crop_padding: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    jitter: Quantity = 0.0
    rotation: Quantity = 0.0
    random_resized_crop: tuple[Positive, Positive] | None = None
    lighting: Quantity = 0.0


class DataSection(Section):
    """Images and labels.

    Attributes:
        name: ``fashion-mnist-mini``, a local folder or file, or a Hugging Face data set; None: what the
            teacher was trained on.
        label_map: Groups the source's classes: ``restricted-imagenet``.
        image_size: Side of the student's input in pixels; None: automatic.
        held_out: Part of the training split that is kept for selection (``train.select_every``), in [0, 1).
        augmentation: None: automatic.
        extra: Sources of images that are trained on beside the labelled ones, as ``name``, with or without
            classes.
        extra_share: Part of each batch that they take, above 0 and below 1.
        extra_labels: ``none``: terms that need labels leave them out; ``teacher``: the teacher's answers are
            their labels; ``source``: their sources' labels are, which must be of the same classes.
        workers: Processes that decode images (data that do not fit in memory).
        max_broken: How many images may be unreadable; training does without them.
    """

    name: str | None = None
    label_map: str | None = None
    image_size: Count | None = None
    held_out: Annotated[Quantity, Field(lt=1)] = 0.0
    augmentation: AugmentationSection | None = None
    extra: Names = Field(default_factory=list)
    extra_share: Annotated[Quantity, Field(gt=0, lt=1)] = 0.5
    extra_labels: Literal["none", "teacher", "source"] = "none"
    workers: Annotated[int, Field(ge=0)] = 2
    max_broken: Annotated[int, Field(ge=0)] = 0


class ThreatSection(Section):
    """The perturbations that training and evaluation are about.

    Attributes:
        norm: None: the teacher's, else Linf.
        eps: In pixel units, such as 8/255; None: the teacher's, else 8/255.
    """

    norm: Literal["Linf", "L2"] | None = None
    eps: Positive | None = None


class ObjectiveSection(BaseModel):
    """What is minimised.

    Attributes:
        name: See ``rrm-transfer run --help-objective``. Every other key is an argument of that objective.
    """

    model_config = ConfigDict(extra="allow", validate_assignment=True)

    name: str = "rrm"

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class TrainSection(Section):
    """How it is minimised. None: automatic.

    Attributes:
        epochs: Passes over the training images.
        global_batch_size: Images per optimiser step, over all processes and accumulation steps.
        accumulation: Parts into which each process splits its share of a batch.
        optimizer: A name that ``timm.optim`` knows (``momentum`` is SGD as the paper uses it).
        lr: The largest learning rate.
        momentum: Of SGD-like optimisers; others have their own.
        weight_decay: As the optimiser applies it; biases and normalisation weights have none.
        schedule: ``cosine`` per step from ``lr`` to ``min_lr``, ``cyclic`` per step from ``min_lr`` up to
            ``lr`` and back, ``multistep`` by ``decay_rate`` at ``milestones``, or ``constant``.
        min_lr: Where the cosine ends and the cycle begins and ends.
        milestones: Epochs at which ``multistep`` decays.
        decay_rate: Factor of one decay.
        warmup_epochs: Linear warm-up of the learning rate from zero; a cycle has none.
        eps_warmup_epochs: Linear warm-up of the training attack's eps from zero.
        clip_grad: Largest gradient norm.
        ema: Decay of an exponential moving average of the weights, below 1; None: no such average.
        average_epochs: Epochs at the end over which weights are averaged, 2 or more; None: no such average.
        select_every: Epochs between evaluations on ``data.held_out``, by which the best weights are selected;
            None: 1 where a part is held out, and no selection without.
        precision: ``bf16`` is autocast; weights and losses stay float32. None: measured on a few steps.
        channels_last: Memory format of the student's images and weights. None: measured on a few steps.
        sync_batchnorm: Whether batch norms normalise by the images of all processes (GPUs).
        compile: Runs the student through ``torch.compile``: the first step takes long, the others less.
        gradient_checkpointing: Computes activations again in the backward pass: less memory, about a third
            more time.
        checkpoint_every: Optimiser steps between checkpoints.
        log_every: Optimiser steps between log lines.
        skip_bad_steps: How many steps may be undone because their loss or gradient is not finite.
    """

    epochs: Count | None = None
    global_batch_size: Count | None = None
    accumulation: Count = 1
    optimizer: str | None = None
    lr: Positive | None = None
    momentum: Quantity | None = None
    weight_decay: Quantity | None = None
    schedule: Literal["cosine", "cyclic", "multistep", "constant"] | None = None
    min_lr: Quantity | None = None
    milestones: list[Count] | None = None
    decay_rate: Positive = 0.1
    warmup_epochs: Quantity | None = None
    eps_warmup_epochs: Quantity = 0.0
    clip_grad: Positive | None = None
    ema: Annotated[Quantity, Field(gt=0, lt=1)] | None = None
    average_epochs: Annotated[int, Field(ge=2)] | None = None
    select_every: Count | None = None
    precision: Literal["float32", "bf16"] | None = None
    channels_last: bool | None = None
    sync_batchnorm: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    checkpoint_every: Count = 500
    log_every: Count = 20
    skip_bad_steps: Annotated[int, Field(ge=0)] = 0


class ControlSection(Section):
    """The undefended control: the same student, data and optimiser with plain cross-entropy.

    Attributes:
        enabled: Whether it is trained at all.
        epochs: None: as many as the student.
    """

    enabled: bool = True
    epochs: Count | None = None


class EvaluateSection(Section):
    """What is measured at the end, on the test split.

    Attributes:
        images: How many test images, a fixed balanced sample; None: all.
        eps: Radii of the PGD attack in pixel units; None: the threat model's.
        steps: Of PGD.
        restarts: Of PGD.
        batch_size: Images per forward pass and process.
    """

    images: Count | None = None
    eps: list[Positive] | None = None
    steps: Count = 20
    restarts: Count = 1
    batch_size: Count = 250


class Recipe(Section):
    """Everything that defines a run.

    Attributes:
        name: Names the run folder.
        description: One sentence for the report.
        seed: Of initial weights, data order, augmentation and attacks.
        output: The run folder; None: ``runs/<recipe>-<student>-<UTC time>``.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "custom"
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    output: Path | None = None
    teacher: TeacherSection | None = None
    student: StudentSection
    data: DataSection = Field(default_factory=DataSection)
    threat: ThreatSection = Field(default_factory=ThreatSection)
    objective: ObjectiveSection = Field(default_factory=ObjectiveSection)
    train: TrainSection = Field(default_factory=TrainSection)
    control: ControlSection = Field(default_factory=ControlSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
