"""What can be trained: a timm student, or one of the teachers' networks that timm lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_folder
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.pixels import NAMED_STATISTICS, Normalise
from rrm_transfer.students.names import resolve_student_name
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import Kind, Student, kind_of
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
        self.normalise = Normalise(NAMED_STATISTICS["none"].for_channels(channels))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = build_model(Blueprint(architecture, self.args))

    def forward(self, x: Tensor) -> Outputs:
        """Maps pixels in [0, 1], ``(B, C, H, W)``, to logits and representation."""
        outputs: Outputs = self.network(self.normalise(x))
        return outputs


Learner = Student | TeacherNetwork


def resolve_learner_name(name: str) -> str:
    """Returns the exact name of what is to be trained.

    Raises:
        UserError: It is neither a timm classifier nor one of the teachers' networks.
    """
    return name if _is_teacher_network(name) else resolve_student_name(name)


def kind_of_learner(name: str) -> Kind:
    """Tells how a network is usually trained, without making its weights."""
    with torch.device("meta"):
        if _is_teacher_network(name):
            return kind_of(build_model(Blueprint(name, {"num_classes": 10, "in_chans": 3})))
        return kind_of(timm.create_model(name))


def build_teacher_network(
    name: str, *, num_classes: int, channels: int, image_size: int, args: Mapping[str, object], seed: int
) -> TeacherNetwork | None:
    """Builds the teachers' network of that name; None where it is timm's.

    Raises:
        UserError: Arguments were given, which these networks do not take.
    """
    if not _is_teacher_network(name):
        return None
    if args:
        raise UserError(
            f"{name} takes no arguments.", received=", ".join(args), hint="leave out --student-arg"
        )
    return TeacherNetwork(name, num_classes=num_classes, channels=channels, image_size=image_size, seed=seed)


def export_learner(
    learner: Learner,
    folder: Path,
    *,
    sample: Tensor,
    class_names: Sequence[str] | None,
    licence: str | None,
    rrm: Mapping[str, object],
) -> None:
    """Writes a trained network: a student folded, a teachers' network as ``--teacher`` reads it.

    Args:
        learner: On the CPU.
        folder: Its files are replaced where they exist; others stay.
        sample: Images on which a folded student must answer like the trained one, ``(B, C, H, W)``.
        class_names: In the order of the logits, where they are known.
        licence: Of the weights.
        rrm: What else to record; JSON values only.

    Raises:
        UserError: A folded student would answer otherwise.
    """
    if isinstance(learner, Student):
        save_student(learner, folder, sample=sample, class_names=class_names, licence=licence, rrm=rrm)
        return
    statistics = learner.normalise.statistics
    channels = len(statistics.mean)
    config = {
        "architecture": learner.architecture,
        "model_args": learner.args,
        "label_names": list(class_names) if class_names else None,
        "pretrained_cfg": {
            "input_size": [channels, learner.image_size, learner.image_size],
            "mean": statistics.mean,
            "std": statistics.std,
            "license": licence,
        },
        "rrm": dict(rrm),
    }
    with replacing_folder(folder) as temporary:
        weights = {name: value.contiguous() for name, value in learner.network.state_dict().items()}
        save_file(weights, temporary / "model.safetensors")
        (temporary / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _is_teacher_network(name: str) -> bool:
    return is_known(name) and not is_timm(name)
