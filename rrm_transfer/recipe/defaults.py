"""The tables that fill in what a recipe leaves open, by kind of student, size of image and device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rrm_transfer.core.errors import RecipeError
from rrm_transfer.core.kinds import Kind
from rrm_transfer.core.quantities import counted, format_eps
from rrm_transfer.recipe.resolved import ResolvedRecipe
from rrm_transfer.recipe.schema import AUTO, AugmentationSection, Recipe

SMALL_IMAGE = 64
"""Largest side, in pixels, of what counts as a small image."""


@dataclass(frozen=True)
class TrainingDefaults:
    """One row of the table; the fields are those of the recipe's ``train`` section.

    Attributes:
        source: Where the row comes from.
        pretrained: Whether the student starts from timm's weights where they can be had, if nothing is said.
        augmentation: Random changes of training images.
    """

    source: str
    pretrained: bool
    epochs: int
    global_batch_size: int
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: Literal["cosine", "multistep"]
    min_lr: float
    milestones: tuple[int, ...]
    warmup_epochs: float
    clip_grad: float | None
    augmentation: AugmentationSection


Row = Literal["convolutional", "convolutional, with weights", "transformer"]
Size = Literal["small", "large"]

EMA = 0.998
"""Decay of the averaged weights, in every row: a memory of 500 steps, which ``MovingAverage`` shortens
further where there are few."""

_CROP_AND_FLIP = AugmentationSection(crop_padding=4, flip=True)
_LARGE = AugmentationSection(random_resized_crop=(0.08, 1.0), flip=True, jitter=0.1, lighting=0.05)

DEFAULTS: dict[tuple[Row, Size], TrainingDefaults] = {
    ("convolutional", "small"): TrainingDefaults(
        source="Vaishnavi et al. 2022, CIFAR-10 Linf",
        pretrained=False,
        epochs=48,
        global_batch_size=128,
        optimizer="momentum",
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="cosine",
        min_lr=1e-6,
        milestones=(),
        warmup_epochs=0.0,
        clip_grad=None,
        augmentation=_CROP_AND_FLIP,
    ),
    ("convolutional", "large"): TrainingDefaults(
        source="Vaishnavi et al. 2022, Restricted-ImageNet",
        pretrained=False,
        epochs=60,
        global_batch_size=128,
        optimizer="momentum",
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-5,
        schedule="multistep",
        min_lr=0.0,
        milestones=(35, 50),
        warmup_epochs=0.0,
        clip_grad=None,
        augmentation=_LARGE,
    ),
    ("convolutional, with weights", "small"): TrainingDefaults(
        source="Salman et al. 2020, fine-tuning",
        pretrained=True,
        epochs=24,
        global_batch_size=128,
        optimizer="momentum",
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="cosine",
        min_lr=1e-6,
        milestones=(),
        warmup_epochs=0.0,
        clip_grad=None,
        augmentation=_CROP_AND_FLIP,
    ),
    ("convolutional, with weights", "large"): TrainingDefaults(
        source="Salman et al. 2020, fine-tuning",
        pretrained=True,
        epochs=30,
        global_batch_size=128,
        optimizer="momentum",
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-5,
        schedule="cosine",
        min_lr=1e-6,
        milestones=(),
        warmup_epochs=0.0,
        clip_grad=None,
        augmentation=_LARGE,
    ),
    ("transformer", "small"): TrainingDefaults(
        source="timm's habits for transformers",
        pretrained=True,
        epochs=100,
        global_batch_size=128,
        optimizer="adamw",
        lr=1e-3,
        momentum=0.9,
        weight_decay=0.05,
        schedule="cosine",
        min_lr=1e-6,
        milestones=(),
        warmup_epochs=5.0,
        clip_grad=1.0,
        augmentation=_CROP_AND_FLIP,
    ),
    ("transformer", "large"): TrainingDefaults(
        source="timm's habits for transformers",
        pretrained=True,
        epochs=60,
        global_batch_size=256,
        optimizer="adamw",
        lr=5e-4,
        momentum=0.9,
        weight_decay=0.05,
        schedule="cosine",
        min_lr=1e-6,
        milestones=(),
        warmup_epochs=5.0,
        clip_grad=1.0,
        augmentation=_LARGE,
    ),
}


@dataclass(frozen=True)
class Numerics:
    """How the same steps are computed.

    Attributes:
        precision: Of forward and backward passes.
        channels_last: Memory format of images and weights.
    """

    precision: Literal["float32", "bf16"]
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision}, {'channels_last' if self.channels_last else 'contiguous'}"


NUMERICS: dict[tuple[Literal["bf16", "float32"], Kind], Numerics] = {
    ("bf16", "convolutional"): Numerics("bf16", channels_last=True),
    ("bf16", "transformer"): Numerics("bf16", channels_last=False),
    ("float32", "convolutional"): Numerics("float32", channels_last=True),
    ("float32", "transformer"): Numerics("float32", channels_last=False),
}
"""A rule and not a stopwatch, so that a recipe is the same run today and tomorrow."""


def training_defaults(kind: Kind, image_size: int, *, with_weights: bool = False) -> TrainingDefaults:
    """Returns the row for a student.

    Args:
        kind: Of student.
        image_size: Side of its input in pixels.
        with_weights: Whether it starts from weights. Transformers have one row: they mostly do.
    """
    row: Row = "convolutional, with weights" if with_weights and kind == "convolutional" else kind
    return DEFAULTS[row, "small" if image_size <= SMALL_IMAGE else "large"]


def numerics(kind: Kind, *, bf16: bool) -> Numerics:
    """Returns the row for a kind of student.

    Args:
        kind: Of student.
        bf16: Whether the device is a GPU that computes in it, or the launcher asks for it.
    """
    return NUMERICS["bf16" if bf16 else "float32", kind]


def fill_in(
    recipe: Recipe,
    row: TrainingDefaults,
    numbers: Numerics,
    *,
    compiled: bool = False,
    whole: bool = True,
    workers: int = 0,
) -> Recipe:
    """Returns the recipe with all that is left open of training replaced by what the tables say.

    Milestones and warm-up are the row's share of the epochs, however many those are.

    Args:
        recipe: Left unchanged.
        row: From ``training_defaults``.
        numbers: From ``numerics``.
        compiled: Whether the launcher asks for ``torch.compile``.
        workers: Processes that should decode images.
        whole: Whether each process holds the student whole, as averages and selection need it.

    Raises:
        RecipeError: The optimizer is one whose learning rate the table does not know, or values do not go
            together.
    """
    train = recipe.train
    epochs = row.epochs if train.epochs == AUTO else train.epochs
    share = epochs / row.epochs
    automatic: dict[str, Any] = {
        "epochs": epochs,
        "global_batch_size": row.global_batch_size,
        "optimizer": row.optimizer,
        "lr": row.lr,
        "momentum": row.momentum,
        "weight_decay": row.weight_decay,
        "schedule": row.schedule,
        "min_lr": row.min_lr,
        "milestones": [max(1, round(share * milestone)) for milestone in row.milestones],
        "warmup_epochs": share * row.warmup_epochs,
        "clip_grad": row.clip_grad,
        "ema": EMA if whole and train.average_epochs is None else None,
        "select_every": 1 if whole and recipe.data.held_out else None,
        "precision": numbers.precision,
        "channels_last": numbers.channels_last,
        "compile": compiled,
    }
    if train.optimizer not in (AUTO, row.optimizer) and train.lr == AUTO:
        # A learning rate means nothing without its optimizer.
        automatic["lr"] = next((d.lr for d in DEFAULTS.values() if d.optimizer == train.optimizer), None)
        if automatic["lr"] is None:
            known = ", ".join(dict.fromkeys(d.optimizer for d in DEFAULTS.values()))
            problem = f"is required with {train.optimizer}; there is a default for {known} only"
            raise RecipeError([("train.lr", problem)])
    chosen = {name: value for name, value in automatic.items() if getattr(train, name) == AUTO}
    data, control = recipe.data, recipe.control
    if data.augmentation == AUTO:
        data = data.changed(augmentation=row.augmentation)
    if data.workers == AUTO:
        data = data.changed(workers=workers)
    filled = recipe.changed(
        train=train.changed(**chosen),
        data=data,
        control=control.changed(epochs=epochs) if control.epochs == AUTO else control,
    )
    check_together(filled)
    return filled


def check_together(recipe: Recipe) -> None:
    """Checks values that are right by themselves, whether or not automatic ones are filled in.

    Raises:
        RecipeError: They do not go together.
    """
    train, student, problems = recipe.train, recipe.student, []
    if student.weights is not None and student.start in ("scratch", "teacher"):
        problems.append(("student.weights", f"goes without student.start: {student.start}"))
    if train.ema not in (None, AUTO) and train.average_epochs is not None:
        problems.append(("train.average_epochs", "goes without train.ema: there is one average"))
    if train.average_epochs is not None and train.epochs != AUTO and train.average_epochs > train.epochs:
        problems.append(
            ("train.average_epochs", f"is more than train.epochs (received {train.average_epochs})")
        )
    if train.select_every not in (None, AUTO) and not recipe.data.held_out:
        problems.append(("train.select_every", "needs images that are held out, such as data.held_out=0.05"))
    if train.attack_mode == "training" and train.gradient_checkpointing:
        # What is computed again would enter the statistics twice.
        problems.append(("train.attack_mode", "is evaluation with train.gradient_checkpointing"))
    if train.schedule == "multistep" and train.milestones == ():
        problems.append(("train.milestones", "is required with multistep, as epochs: [30, 45]"))
    if recipe.data.extra and recipe.data.extra_labels == "teacher" and recipe.teacher is None:
        problems.append(("data.extra_labels", "needs a teacher (--teacher T) to label the extra images"))
    if problems:
        raise RecipeError(problems)


def describe_start(start: str, weights: object, head: str) -> str:
    """Says in words where a student starts.

    Args:
        start: As in a recipe, and so are the others.
        weights: None: none of the user's.
        head: What stands behind the representation.
    """
    own = "timm's weights" if weights is None else f"the weights of {weights}"
    words = {"scratch": "from scratch", "teacher": "from the teacher's weights"}.get(start, f"from {own}")
    behind = {
        "teacher": ", with the teacher's classifier",
        "ridge": ", with a solved projection to the teacher",
    }
    return words + behind.get(head, "")


def training_line(recipe: ResolvedRecipe, source: str, kind: str) -> str:
    """Says in a line how a recipe trains."""
    train, student = recipe.train, recipe.student
    start = describe_start(student.start, student.weights, student.head)
    return (
        f"training: {kind} student at {recipe.data.image_size} px, {counted(train.epochs, 'epoch')} of "
        f"batches of {train.global_batch_size}, {train.optimizer} lr {train.lr:g} ({train.schedule}), "
        f"weight decay {train.weight_decay:g}, "
        f"{start}{f', averaged (EMA {train.ema:g})' if train.ema else ''}, "
        f"{Numerics(train.precision, train.channels_last)}{', compiled' * train.compile}; "
        f"threat {recipe.threat.norm} {format_eps(recipe.threat.eps)}  [defaults: {source}]"
    )
