"""Reading an exported student."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor, nn

from rrm_transfer.core.hub import hub_model
from rrm_transfer.core.names import HUB, split_scheme
from rrm_transfer.core.pixels import Normalize
from rrm_transfer.core.weights.state_dict import require_same_kinds
from rrm_transfer.students.creation import create_timm
from rrm_transfer.students.folder import StudentFolder

_COPIES, _ROOM = 2, 1 << 20
"""How many parameters a network may have on its way, by those of its weights: timm makes some anew."""


class LoadedStudent(nn.Module):
    """An exported student that takes pixels in [0, 1] and returns logits.

    Attributes:
        architecture: Its timm name.
        class_names: In the order of the logits, where the export knows them.
        normalization: The pixel statistics that it applies.
        image_size: Side of the images that it was trained on, in pixels.
        model: The timm network, which takes normalized images.
    """

    def __init__(self, model: nn.Module, *, folder: StudentFolder) -> None:
        super().__init__()
        config = folder.config
        self.architecture: str = config.get("rrm", {}).get("architecture", config["architecture"])
        self.class_names: tuple[str, ...] | None = tuple(config.get("label_names") or ()) or None
        self.normalization = folder.statistics
        self.image_size: int = folder.recorded["input_size"][-1]
        self.normalize = Normalize(self.normalization)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits ``(B, classes)`` of pixels in [0, 1], ``(B, C, H, W)``."""
        return cast(Tensor, self.model(self.normalize(x)))


def load_student(path: str | Path) -> LoadedStudent:
    """Loads an exported student, stock or not, in eval mode.

    Args:
        path: A run folder, its ``student`` folder, any folder that timm's ``local-dir:`` takes, or
            ``hf-hub:user/name`` with ``@revision`` where one is wanted.

    Raises:
        UserError: There is no student, its files are damaged, or the hub does not give them.
    """
    scheme, name = split_scheme(str(path))
    folder = StudentFolder(hub_model(name)[0].parent if scheme == HUB else Path(name))
    with folder.reading():
        return LoadedStudent(_network(folder), folder=folder).eval()


def _network(folder: StudentFolder) -> nn.Module:
    """Builds the network that a folder describes; its words choose among timm's, and load no other.

    Raises:
        UserError: They name another network, or the weights are not its own.
    """
    architecture, recorded, args = folder.architecture, folder.recorded, folder.args
    tensors = folder.tensors()
    model = create_timm(
        architecture,
        num_classes=args.pop("num_classes", folder.config.get("num_classes", recorded.get("num_classes"))),
        channels=args.pop("in_chans", recorded["input_size"][0]),
        args=args,
        stem=folder.stem,
        images={key: tuple(recorded[key]) for key in ("input_size", "mean", "std")},
        parameters=_ROOM + _COPIES * sum(tensor.numel() for tensor in tensors.values()),
    )
    require_same_kinds(model, tensors, source=folder.weights)
    model.load_state_dict(tensors)
    return model
