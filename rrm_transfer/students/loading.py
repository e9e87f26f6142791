"""Reading an exported student."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
from torch import Tensor, nn

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import hub_model
from rrm_transfer.core.names import HUB, split_scheme
from rrm_transfer.core.pixels import Normalize, PixelStatistics
from rrm_transfer.core.stems import MARKED_PREFIX, MARKED_WEIGHTS, STOCK_WEIGHTS
from rrm_transfer.core.weights.state_dict import read_state_dict, require_same_kinds
from rrm_transfer.students.creation import create_timm
from rrm_transfer.students.saving import CONFIG

# What timm's constructors and loaders raise on a configuration that is not theirs.
_DAMAGED = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip

_OLDER_WEIGHTS = "pytorch_model.bin"
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

    def __init__(self, model: nn.Module, *, config: dict[str, Any]) -> None:
        super().__init__()
        recorded = config["pretrained_cfg"]
        self.architecture: str = config.get("rrm", {}).get("architecture", config["architecture"])
        self.class_names: tuple[str, ...] | None = tuple(config.get("label_names") or ()) or None
        self.normalization = PixelStatistics(tuple(recorded["mean"]), tuple(recorded["std"]))
        self.image_size: int = recorded["input_size"][-1]
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
    folder = hub_model(name)[0].parent if scheme == HUB else Path(name)
    if not (folder / CONFIG).is_file() and (folder / "student" / CONFIG).is_file():
        folder = folder / "student"
    if not (folder / CONFIG).is_file():
        raise UserError(
            "No student here.",
            received=path,
            allowed="a run folder, a folder with config.json and model.safetensors, or hf-hub:user/name",
        )
    try:
        config = cast(dict[str, Any], parse_json((folder / CONFIG).read_text(encoding="utf-8")))
        return LoadedStudent(_network(folder, config), config=config).eval()
    except _DAMAGED as error:
        raise UserError(
            "The student's files are incomplete or damaged.", received=folder, allowed=f"timm said: {error}"
        ) from error


def _network(folder: Path, config: dict[str, Any]) -> nn.Module:
    """Builds the network that a folder describes; its words choose among timm's, and load no other.

    Raises:
        UserError: They name another network, or the weights are not its own.
    """
    stem = config.get("rrm", {}).get("stem")
    architecture = config["rrm"]["architecture"] if stem else config["architecture"]
    if not (isinstance(architecture, str) and timm.is_model(architecture)):
        raise UserError(
            "Unknown student: timm has no such architecture.", received=f"{folder}: {architecture}"
        )
    recorded, args = config["pretrained_cfg"], dict(config.get("model_args") or {})
    names = (MARKED_WEIGHTS,) if stem else (STOCK_WEIGHTS, _OLDER_WEIGHTS)
    file = next((folder / name for name in names if (folder / name).exists()), folder / names[0])
    tensors = read_state_dict(file).tensors
    model = create_timm(
        architecture,
        num_classes=args.pop("num_classes", config.get("num_classes", recorded.get("num_classes"))),
        channels=args.pop("in_chans", recorded["input_size"][0]),
        args=args,
        stem=stem,
        images={key: tuple(recorded[key]) for key in ("input_size", "mean", "std")},
        parameters=_ROOM + _COPIES * sum(tensor.numel() for tensor in tensors.values()),
    )
    if stem:
        tensors = {key.removeprefix(MARKED_PREFIX): tensor for key, tensor in tensors.items()}
    require_same_kinds(model, tensors, source=file)
    model.load_state_dict(tensors)
    return model
