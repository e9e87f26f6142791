"""What an objective is: flat arguments in, named loss terms out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from rrm_transfer.attacks.ascent import InnerAttack, PerSampleLoss
from rrm_transfer.core.layers import Layer
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel

Need = Literal["features", "logits", "frozen_classifier"]
"""What is asked of a teacher; its classifier in the place of the student's."""

TeacherInput = Literal["clean", "other"]
"""What a teacher is asked about: the clean input, whose outputs a cache can hold, or another."""


START = "start"
"""An anchor: the student itself, as it was when training began."""


class LayerPair(NamedTuple):
    """An intermediate layer of the student, and that of the teacher to which it is projected."""

    student: Layer
    teacher: Layer


class Term(NamedTuple):
    """One part of a training loss. All terms are minimised.

    Attributes:
        name: Under which it is logged.
        weight: Not negative.
        value: A scalar: the mean over the samples of the batch.
    """

    name: str
    weight: float
    value: Tensor


@dataclass(frozen=True)
class Inversion:
    """How training images are made anew from a teacher's representation of them, before training.

    Attributes:
        steps: Steps of the descent.
        step_size: L2 length of one step in pixel units.
        folder: Where the images are kept; None: in the run folder.
    """

    steps: int
    step_size: float
    folder: str | None


class Step(Protocol):
    """What the training loop gives to an objective for one batch (or part of one).

    Attributes:
        x: The student's input, pixels in [0, 1], ``(B, C, H, W)``.
        y: Class indices, ``(B,)``; they mean nothing where ``label_weight`` is 0.
        label_weight: How much each label counts, ``(B,)``: 0 for an image that has none, and for the others
            such that the mean over the global batch is that over its labelled images.
        threat: The threat model, eps warm-up applied.
        randomness: The batch's random numbers.
        progress: The part of training that is done, in [0, 1).
        first: Position of the first sample of ``x`` within this process's part of the global batch; 0
            unless the part is split for gradient accumulation.
    """

    @property
    def x(self) -> Tensor: ...
    @property
    def y(self) -> Tensor: ...
    @property
    def label_weight(self) -> Tensor: ...
    @property
    def threat(self) -> ThreatModel: ...
    @property
    def randomness(self) -> Randomness: ...
    @property
    def progress(self) -> float: ...
    @property
    def first(self) -> int: ...

    def student(self, x: Tensor) -> Outputs:
        """The student in training mode; gradients reach its weights."""

    def student_eval(self, x: Tensor) -> Outputs:
        """The same weights as an attack sees them: in evaluation mode, unless the run says otherwise."""

    def clean_teacher(self) -> Outputs:
        """The teacher on the clean ``x``, without gradient: computed once per batch or read from a cache."""

    def anchor(self) -> Outputs:
        """The objective's anchor on the clean ``x``, without gradient."""

    def teacher(self, x: Tensor) -> Outputs:
        """The teacher on any input; gradients reach ``x`` where it requires them, never the weights."""

    def attack(self, loss: PerSampleLoss, inner: InnerAttack) -> Tensor:
        """What ``inner.perturb`` makes of ``x``, the student as in ``student_eval``; detached, in [0, 1]."""


def teacher_inputs(*, clean: bool, other: bool) -> frozenset[TeacherInput]:
    """Returns the inputs that a teacher is asked about."""
    asked: dict[TeacherInput, bool] = {"clean": clean, "other": other}
    return frozenset(name for name, wanted in asked.items() if wanted)


class Objective(ABC):
    """A training loss: a ``@dataclass(kw_only=True)`` whose fields are the arguments that a recipe can set.

    Its docstring names the equation and the source, and its ``Args:`` section what each field does.

    Attributes:
        needs: What is asked of the teacher; empty for training without one. It may depend on the arguments,
            so ask an instance.
        layers: Intermediate layers that ``Outputs`` hold, in this order.
        inversion: How the training images are made anew before training, where they are (RDT).
        teacher_sees: Which inputs the teacher is asked about. Where its outputs on clean inputs are cached,
            the loop has no teacher unless ``other`` is among them.
        labels_optional: Whether an image without a label takes part: no attack follows its label, and a term
            beside the cross-entropy is left.
        borrows_classifier: Whether a student from scratch starts better with the teacher's classifier.
        attacks: Whether the student itself is attacked in training.
        replays: How often the loop uses each batch, with one optimizer step each time (Free AT).
        anchor: A frozen clean network beside the teacher: ``START``, or one as the user names it.
        differentiates_twice: Whether a term is a gradient itself: the student needs second derivatives.
    """

    needs: frozenset[Need] = frozenset()
    layers: tuple[LayerPair, ...] = ()
    inversion: Inversion | None = None
    teacher_sees: frozenset[TeacherInput] = frozenset({"clean", "other"})
    labels_optional: bool = False
    borrows_classifier: bool = False
    attacks: bool = False
    replays: int = 1
    anchor: str | None = None
    differentiates_twice: bool = False

    @abstractmethod
    def __call__(self, step: Step) -> list[Term]:
        """Computes the loss terms of one batch; which ones there are may change over training."""

    def state_dict(self) -> dict[str, Tensor]:
        """Returns what a checkpoint must hold for training to go on exactly; empty for most objectives.

        Each tensor's first dimension is the sample's position in this process's part of the global batch.
        Gathered in the order of the ranks it is the state for any number of processes.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restores what ``state_dict`` returned."""
