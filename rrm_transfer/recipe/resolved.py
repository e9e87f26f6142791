"""The recipe's sections once nothing in them is left to be chosen, so that their readers need not ask."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rrm_transfer.recipe.schema import (
    AugmentationSection,
    CacheSection,
    ControlSection,
    Count,
    DataSection,
    EvaluateSection,
    Positive,
    Quantity,
    Recipe,
    StudentSection,
    TeacherSection,
    ThreatSection,
    TrainSection,
)


class ResolvedCache(CacheSection):
    seed: Annotated[int, Field(ge=0)]


class ResolvedTeacher(TeacherSection):
    cache: ResolvedCache | None


class ResolvedStudent(StudentSection):
    start: Literal["scratch", "pretrained", "teacher"]
    head: Literal["own", "teacher", "ridge"]


class ResolvedData(DataSection):
    name: str
    label_map: str | None
    image_size: Count
    augmentation: AugmentationSection
    workers: Annotated[int, Field(ge=0)]


class ResolvedThreat(ThreatSection):
    norm: Literal["Linf", "L2"]
    eps: Positive


class ResolvedTrain(TrainSection):
    epochs: Count
    global_batch_size: Count
    optimizer: str
    lr: Positive
    momentum: Quantity
    weight_decay: Quantity
    schedule: Literal["cosine", "cyclic", "multistep", "constant"]
    min_lr: Quantity
    milestones: tuple[Count, ...]
    warmup_epochs: Quantity
    clip_grad: Positive | None
    ema: Annotated[Quantity, Field(gt=0, lt=1)] | None
    select_every: Count | None
    precision: Literal["float32", "bf16"]
    channels_last: bool
    compile: bool


class ResolvedControl(ControlSection):
    epochs: Count


class ResolvedEvaluate(EvaluateSection):
    eps: tuple[Positive, ...]


class ResolvedRecipe(Recipe):
    """A recipe that says all that a run depends on."""

    teacher: ResolvedTeacher | None
    student: ResolvedStudent
    data: ResolvedData
    threat: ResolvedThreat
    train: ResolvedTrain
    control: ResolvedControl
    evaluate: ResolvedEvaluate

    @classmethod
    def of(cls, recipe: Recipe) -> ResolvedRecipe:
        """Returns the same recipe; a value that is still to be chosen is an error of the caller."""
        return cls.model_validate(recipe.model_dump())
