"""What can be trained: a timm student, or one of the teachers' networks that timm lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_folder
from rrm_transfer.core.kinds import Kind
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.pixels import NAMED_STATISTICS, Normalize
from rrm_transfer.data.images import DataSet
from rrm_transfer.recipe.schema import StudentSection
from rrm_transfer.students.names import resolve_student_name
from rrm_transfer.students.pretrained import StartingWeights
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import Student, StudentPlan, kind_of, plan_student
from rrm_transfer.teachers.networks import Blueprint, build_model
from rrm_transfer.teachers.networks.building import is_known, is_timm


class TeacherNetwork(nn.Module):
    """A network that robust checkpoints use and timm lacks, in training as a teacher.

    It takes pixels as they are: the published checkpoints of these networks mostly do.

    Args:
        architecture: A name that ``rrm_transfer.teachers.networks`` builds.
        num_classes: Of the data.
        channels: Of the data's images.
        image_size: Their side in pixels.
        seed: Of the initial weights.
    """

    stock = False

    def __init__(
        self, architecture: str, *, num_classes: int, channels: int, image_size: int, seed: int
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.args = {"num_classes": num_classes, "in_chans": channels}
        self.image_size = image_size
        self.normalize = Normalize(NAMED_STATISTICS["none"].for_channels(channels))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = build_model(Blueprint(architecture, self.args))

    def forward(self, x: Tensor) -> Outputs:
        """Maps pixels in [0, 1], ``(B, C, H, W)``, to logits and representation."""
        outputs: Outputs = self.network(self.normalize(x))
        return outputs


Trainable = Student | TeacherNetwork


@dataclass(frozen=True)
class TeacherNetworkPlan:
    """A teachers' network before it has weights; see ``StudentPlan``.

    Attributes:
        name: That ``rrm_transfer.teachers.networks`` builds.
        num_classes: Of the data.
        channels: Of the data's images.
        image_size: Their side in pixels.
        seed: Of the initial weights.
    """

    name: str
    num_classes: int
    channels: int
    image_size: int
    seed: int
    stock: ClassVar[bool] = False

    def build(self, feature_width: int | None = None) -> TeacherNetwork:
        """Builds the network, which learns from the data alone."""
        return TeacherNetwork(
            self.name,
            num_classes=self.num_classes,
            channels=self.channels,
            image_size=self.image_size,
            seed=self.seed,
        )

    def outline(self, feature_width: int | None = None) -> TeacherNetwork:
        """Returns the network on the meta device: shapes without numbers."""
        with torch.device("meta"):
            return self.build()


TrainablePlan = StudentPlan | TeacherNetworkPlan


def resolve_trainable_name(name: str) -> str:
    """Returns the exact name of what is to be trained.

    Raises:
        UserError: It is neither a timm classifier nor one of the teachers' networks.
    """
    return name if is_teacher_network(name) else resolve_student_name(name)


def kind_of_trainable(name: str) -> Kind:
    """Tells how a network is usually trained, without making its weights."""
    with torch.device("meta"):
        if is_teacher_network(name):
            return kind_of(build_model(Blueprint(name, {"num_classes": 10, "in_chans": 3})))
        return kind_of(timm.create_model(name))


def plan_trainable(
    section: StudentSection,
    data: DataSet,
    *,
    image_size: int,
    pretrained: bool,
    weights: StartingWeights | None = None,
    projected: bool = False,
    seed: int,
) -> TrainablePlan:
    """Plans what a recipe trains, without making weights.

    Args:
        section: Of the recipe, with an exact name.
        data: To train on.
        image_size: Side of the input in pixels.
        pretrained: Whether it starts from timm's weights.
        weights: Another network's that it starts from instead.
        projected: Whether matched features are projected even where the widths are equal.
        seed: Of the initial weights.

    Raises:
        UserError: The network cannot be built so.
    """
    shape: dict[str, int] = {
        "num_classes": data.num_classes, "channels": data.channels, "image_size": image_size, "seed": seed
    }  # fmt: skip
    if not is_teacher_network(section.name):
        return plan_student(
            section.name,
            pretrained=pretrained,
            weights=weights,
            args=section.args,
            projection="always" if projected else section.projection,
            **shape,
        )
    if section.args:
        raise UserError(
            f"{section.name} takes no arguments.",
            received=", ".join(section.args),
            hint="leave out --student-arg",
        )
    from_weights = pretrained or section.weights is not None or section.start == "teacher"
    if from_weights or section.projection != "auto":
        raise UserError(
            "A network that timm lacks is trained from scratch and has no projection.",
            received=f"{section.name} with student.start, student.weights or student.projection",
        )
    return TeacherNetworkPlan(section.name, **shape)


def export_trained(
    network: Trainable,
    folder: Path,
    *,
    sample: Tensor,
    class_names: Sequence[str] | None,
    license: str | None,
    rrm: Mapping[str, object],
) -> None:
    """Writes a trained network: a student folded, a teachers' network as ``--teacher`` reads it.

    Args:
        network: On the CPU.
        folder: Its files are replaced where they exist; others stay.
        sample: Images on which a folded student must answer like the trained one, ``(B, C, H, W)``.
        class_names: In the order of the logits, where they are known.
        license: Of the weights.
        rrm: What else to record; JSON values only.

    Raises:
        UserError: A folded student would answer otherwise.
    """
    if isinstance(network, Student):
        save_student(network, folder, sample=sample, class_names=class_names, license=license, rrm=rrm)
        return
    statistics = network.normalize.statistics
    channels = len(statistics.mean)
    config = {
        "architecture": network.architecture,
        "model_args": network.args,
        "label_names": list(class_names) if class_names else None,
        "pretrained_cfg": {
            "input_size": [channels, network.image_size, network.image_size],
            "mean": statistics.mean,
            "std": statistics.std,
            "license": license,
        },
        "rrm": dict(rrm),
    }
    with replacing_folder(folder) as temporary:
        weights = {name: value.contiguous() for name, value in network.network.state_dict().items()}
        save_file(weights, temporary / "model.safetensors")
        (temporary / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def is_teacher_network(name: str) -> bool:
    """Tells whether a name is that of a teachers' network that timm lacks."""
    return is_known(name) and not is_timm(name)
