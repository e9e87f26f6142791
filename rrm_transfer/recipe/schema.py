"""The recipe's sections, their types and their defaults.

Two words are never mixed up. ``auto`` is a value that is still to be chosen, by the teacher's source, the
data or the table of defaults: ``runs.resolve`` chooses it, and the recipe in a run folder has none left.
``null`` is an answer: there is none of it, and none will be chosen.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import LARGEST_SEED, LARGEST_SIDE, MOST, parse_fraction


def _quantity(value: Any) -> float:
    try:
        return parse_fraction(value)
    except UserError as error:
        raise ValueError(f"{error.what} Allowed: {error.allowed}") from None


Quantity = Annotated[float, BeforeValidator(_quantity)]
"""A number of 0 or more; ``8/255`` and ``5e-4`` are read, nothing is evaluated."""
Positive = Annotated[Quantity, Field(gt=0)]
Whole = Annotated[int, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Pixels = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_several)]
"""A list of names; a single one may stand for itself."""

T = TypeVar("T")
Auto = Literal["auto"]
AUTO: Auto = "auto"
"""Stands for a value that is chosen when the recipe is resolved."""


class _OrAuto:
    """Adds ``auto`` to the values of a type; what is neither is told as a problem of the type alone."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        given = handler.generate_schema(reduce(or_, (kind for kind in get_args(source) if kind != Auto)))
        keep = core_schema.wrap_serializer_function_ser_schema(_unless_auto, schema=given)
        return core_schema.no_info_wrap_validator_function(_unless_auto, given, serialization=keep)


def _unless_auto(value: Any, handler: Any) -> Any:
    return value if isinstance(value, str) and value == AUTO else handler(value)


Open = Annotated[T | Auto, _OrAuto()]
"""A value that may be left to be chosen."""


class Section(BaseModel):
    """A part of a recipe; keys that it does not know are refused, and nothing writes into it."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def changed(self, **values: Any) -> Self:
        """Returns a copy with other values, which are checked."""
        return self.model_validate({**dict(self), **values})


class CacheSection(Section):
    """The teacher's outputs on clean training images, computed once and read by any number of runs.

    Attributes:
        views: Augmented versions of each image; the epochs take them in turn.
        dtype: In which the outputs are stored.
        seed: Of the views' augmentation; ``auto``: the run's. Runs share a cache where it is the same.
    """

    views: Count
    dtype: Literal["float16", "bf16"] = "float16"
    seed: Open[Seed] = AUTO


class TeacherSection(Section):
    """The robust teacher, or any other model as a user names it.

    Attributes:
        name: A zoo name, a timm or hub name, a file, or a run folder of ours.
        arch: The architecture of a weights file, where its keys do not tell it; null: none is named.
        weights: A local file that replaces a download; null: none does.
        normalization: ``none``, ``imagenet``, ``cifar10`` or ``mean/std``, where the source does not tell it;
            null: none is named.
        features_only: Whether its classifier is left aside, so that its classes need not be the data's.
        check: Whether clean and short-PGD accuracy are measured before training.
        cache: Of its outputs; null: the teacher runs beside the student.
    """

    name: str
    arch: str | None = None
    weights: Path | None = None
    normalization: str | None = None
    features_only: bool = False
    check: bool = True
    cache: CacheSection | None = None

    @property
    def is_itself(self) -> bool:
        """Whether the model is what its name says, and not other weights or another reading of them."""
        return self.arch is None and self.weights is None and self.normalization is None


class StudentSection(Section):
    """The network to train.

    Attributes:
        name: A timm architecture, or the beginning of one.
        start: ``scratch``; ``pretrained``, from ``weights`` or else from those that timm names; or
            ``teacher``, whose weights must fit tensor by tensor. ``auto``: ``pretrained`` where ``weights``
            are given, or the table says so and timm's can be had.
        weights: The network to start from, of the same architecture: a weights file, or a folder saved by
            this package or timm, whose arguments and normalization are then the student's; null: none.
        head: What stands behind the representation at first: ``own``, a new one (or that of the weights);
            ``teacher``, the teacher's classifier; or ``ridge``, that classifier behind a projection that is
            solved in closed form, so that training begins as a working classifier. ``auto``: ``ridge`` where
            the student starts from a network of its own, ``teacher`` where from the teacher's or where the
            objective borrows that classifier, else ``own``.
        args: Arguments for ``timm.create_model``, such as ``output_stride: 8``; ``stem: cifar`` is ours.
        projection: ``auto`` inserts the linear layer only where widths differ; ``always`` inserts it.
        license: Of the trained weights, as an SPDX or hub identifier; null: not stated.
    """

    name: str
    start: Open[Literal["scratch", "pretrained", "teacher"]] = AUTO
    weights: Path | None = None
    head: Open[Literal["own", "teacher", "ridge"]] = AUTO
    args: dict[str, Any] = Field(default_factory=dict)
    projection: Literal["auto", "always"] = "auto"
    license: str | None = None


class AugmentationSection(Section):
    """Random changes of training images, the same for teacher and student.

    Attributes:
        crop_padding: Pixels of zero padding before a random crop of the input size.
        flip: Mirror half of the images.
        jitter: Strength of brightness, contrast and saturation changes, in [0, 1].
        rotation: Largest rotation in degrees.
        random_resized_crop: Smallest and largest part of the area that a crop covers (large images); null:
            no such crop.
        lighting: Standard deviation of AlexNet's colour noise.
    """

    crop_padding: Annotated[int, Field(ge=0, le=LARGEST_SIDE)] = 0
    flip: bool = False
    jitter: Quantity = 0.0
    rotation: Quantity = 0.0
    random_resized_crop: tuple[Positive, Positive] | None = None
    lighting: Quantity = 0.0


class DataSection(Section):
    """Images and labels.

    Attributes:
        name: ``fashion-mnist-mini``, a local folder or file, or a Hugging Face data set; ``auto``: what the
            teacher was trained on.
        label_map: Groups the source's classes: ``restricted-imagenet``; null: as they are; ``auto``: as for
            the teacher, where the data are those that it was trained on.
        image_size: Side of the student's input in pixels; ``auto``: that of small square images, rounded up
            to a multiple of 8, else 224.
        held_out: Part of the training split that is kept for selection (``train.select_every``), in [0, 1).
        augmentation: Random changes of training images; ``auto``: the table's.
        extra: Sources of images that are trained on beside the labelled ones, as ``name``, with or without
            classes; empty: none.
        extra_share: Part of each batch that they take, above 0 and below 1.
        extra_labels: ``none``: terms that need labels leave them out; ``teacher``: the teacher's answers are
            their labels; ``source``: their sources' labels are, which must be of the same classes.
        workers: Processes that decode images which do not fit in memory, for training, evaluation and caches;
            ``auto``: this process's share of the cores, less one.
        max_broken: How many images may be unreadable; training does without them.
    """

    name: Open[str] = AUTO
    label_map: Open[str | None] = AUTO
    image_size: Open[Pixels] = AUTO
    held_out: Annotated[Quantity, Field(lt=1)] = 0.0
    augmentation: Open[AugmentationSection] = AUTO
    extra: Names = ()
    extra_share: Annotated[Quantity, Field(gt=0, lt=1)] = 0.5
    extra_labels: Literal["none", "teacher", "source"] = "none"
    workers: Open[Annotated[int, Field(ge=0, le=1024)]] = AUTO
    max_broken: Whole = 0


class ThreatSection(Section):
    """The perturbations that training and evaluation are about.

    Attributes:
        norm: ``auto``: the teacher's, else Linf.
        eps: In pixel units, such as 8/255; ``auto``: the teacher's, else 8/255.
    """

    norm: Open[Literal["Linf", "L2"]] = AUTO
    eps: Open[Positive] = AUTO


class ObjectiveSection(BaseModel):
    """What is minimised.

    Attributes:
        name: See ``rrm-transfer run --help-objective``. Every other key is an argument of that objective.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "rrm"

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class TrainSection(Section):
    """How it is minimised. ``auto``: the table's, by kind of student and size of image.

    Attributes:
        epochs: Passes over the training images.
        global_batch_size: Images per optimizer step, over all processes and accumulation steps.
        accumulation: Parts into which each process splits its share of a batch.
        optimizer: A name that ``timm.optim`` knows (``momentum`` is SGD as the paper uses it).
        lr: The largest learning rate.
        momentum: Of SGD-like optimizers; others have their own.
        weight_decay: As the optimizer applies it; biases and normalization weights have none.
        schedule: ``cosine`` per step from ``lr`` to ``min_lr``, ``cyclic`` per step from ``min_lr`` up to
            ``lr`` and back, ``multistep`` by ``decay_rate`` at ``milestones``, or ``constant``.
        min_lr: Where the cosine ends and the cycle begins and ends.
        milestones: Epochs at which ``multistep`` decays.
        decay_rate: Factor of one decay.
        warmup_epochs: Linear warm-up of the learning rate from zero; a cycle has none.
        eps_warmup_epochs: Linear warm-up of the training attack's eps from zero.
        attack_mode: Mode of the student while training attacks it: ``evaluation``, as it will be used; or
            ``training``, where batch norms normalize by the images at hand and follow what an attack tries.
        clip_grad: Largest gradient norm; null: gradients are not clipped.
        ema: Decay of an exponential moving average of the weights, below 1; null: no such average; ``auto``:
            the table's, unless ``average_epochs`` asks for another.
        average_epochs: Epochs at the end over which weights are averaged, 2 or more; null: no such average.
        select_every: Epochs between evaluations on ``data.held_out``, by which the best weights are selected;
            null: no selection; ``auto``: 1 where a part is held out and each process holds the student whole,
            else null.
        precision: ``bf16`` is autocast; weights and losses stay float32. ``auto``: by kind of device, or
            as accelerate's configuration asks.
        channels_last: Memory format of the student's images and weights. ``auto``: by kind of student.
        sync_batchnorm: Whether batch norms normalize by the images of all processes (GPUs).
        compile: Runs student and teacher through ``torch.compile``: the first step takes long, others less.
            ``auto``: where accelerate's configuration asks for it.
        deterministic: Has a GPU add up in the same order every time, where torch can, so that a resumed run
            ends like one left alone; slower. CPUs do so anyway.
        gradient_checkpointing: Computes activations again in the backward pass: less memory, about a third
            more time.
        checkpoint_minutes: Between checkpoints, which are written beside training; 0: one after each step. A
            signal is always answered with one.
        log_every: Optimizer steps between log lines.
        skip_bad_steps: How many steps may be undone because their loss or gradient is not finite.
    """

    epochs: Open[Count] = AUTO
    global_batch_size: Open[Count] = AUTO
    accumulation: Count = 1
    optimizer: Open[str] = AUTO
    lr: Open[Positive] = AUTO
    momentum: Open[Quantity] = AUTO
    weight_decay: Open[Quantity] = AUTO
    schedule: Open[Literal["cosine", "cyclic", "multistep", "constant"]] = AUTO
    min_lr: Open[Quantity] = AUTO
    milestones: Open[tuple[Count, ...]] = AUTO
    decay_rate: Positive = 0.1
    warmup_epochs: Open[Quantity] = AUTO
    eps_warmup_epochs: Quantity = 0.0
    attack_mode: Literal["evaluation", "training"] = "evaluation"
    clip_grad: Open[Positive | None] = AUTO
    ema: Open[Annotated[Quantity, Field(gt=0, lt=1)] | None] = AUTO
    average_epochs: Annotated[Count, Field(ge=2)] | None = None
    select_every: Open[Count | None] = AUTO
    precision: Open[Literal["float32", "bf16"]] = AUTO
    channels_last: Open[bool] = AUTO
    sync_batchnorm: bool = False
    compile: Open[bool] = AUTO
    deterministic: bool = False
    gradient_checkpointing: bool = False
    checkpoint_minutes: Quantity = 10.0
    log_every: Count = 20
    skip_bad_steps: Whole = 0


class ControlSection(Section):
    """The undefended control: the same student, data and optimizer with plain cross-entropy.

    Attributes:
        enabled: Whether it is trained at all.
        epochs: ``auto``: as many as the student.
    """

    enabled: bool = True
    epochs: Open[Count] = AUTO


class EvaluateSection(Section):
    """What is measured at the end, on the test split.

    Attributes:
        images: How many test images, a fixed balanced sample; null: all.
        skip: Leaves out the balanced sample of so many images, which chose something.
        eps: Radii of the PGD attack in pixel units; ``auto``: the threat model's.
        steps: Of PGD.
        restarts: Of PGD.
        batch_size: Images per forward pass and process.
    """

    images: Count | None = None
    skip: Whole = 0
    eps: Open[Annotated[tuple[Positive, ...], Field(min_length=1)]] = AUTO
    steps: Count = 20
    restarts: Count = 1
    batch_size: Count = 250


class Recipe(Section):
    """Everything that defines a run.

    Attributes:
        name: Names the run folder.
        description: One sentence for the report.
        seed: Of initial weights, data order, augmentation and attacks.
        output: The run folder; null: a new one, ``runs/<recipe>-<student>-<UTC time>``.
        teacher: null: the student learns from the data alone.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "custom"
    description: str = ""
    seed: Seed = 0
    output: Path | None = None
    teacher: TeacherSection | None = None
    student: StudentSection
    data: DataSection = Field(default_factory=DataSection)
    threat: ThreatSection = Field(default_factory=ThreatSection)
    objective: ObjectiveSection = Field(default_factory=ObjectiveSection)
    train: TrainSection = Field(default_factory=TrainSection)
    control: ControlSection = Field(default_factory=ControlSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
