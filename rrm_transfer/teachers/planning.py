"""Which network a checkpoint's weights belong into, and under which names."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from rrm_transfer.core.stems import CIFAR_STEM, base_architecture, has_cifar_stem
from rrm_transfer.teachers.checkpoints import Checkpoint
from rrm_transfer.teachers.guessing import guess, has_small_stem, own_args, vit_geometry
from rrm_transfer.teachers.networks import Blueprint, build_model
from rrm_transfer.teachers.networks.building import is_timm
from rrm_transfer.teachers.origins import Origin

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Plan:
    """A network and the weights for it.

    Attributes:
        blueprint: Of the network.
        tensors: By the network's names.
        image_size: Side in pixels of what the network should see; None: of the data.
        form: What was recognised and removed, in order.
    """

    blueprint: Blueprint
    tensors: Mapping[str, Tensor]
    image_size: int | None
    form: tuple[str, ...]

    def classifier_names(self, model: nn.Module) -> list[str]:
        """Lists the names of the classifier's tensors; empty where timm does not say which they are."""
        prefixes = tuple(f"{name}." for name in _classifiers(self.blueprint.architecture))
        return [name for name in model.state_dict() if name.startswith(prefixes)] if prefixes else []


def draw_plan(origin: Origin, checkpoint: Checkpoint) -> Plan:
    """Decides on architecture, arguments and image size.

    Args:
        origin: What the source says.
        checkpoint: What the file says.

    Raises:
        UserError: The architecture is unknown and the weights leave it open.
    """
    tensors, form = checkpoint.tensors, checkpoint.form
    if origin.architecture is None:
        blueprint = guess(tensors, source=str(origin.file))
    elif origin.own_code:
        blueprint = Blueprint(origin.architecture, own_code=True)
    elif is_timm(origin.architecture):
        blueprint, filtered = _timm_plan(origin, tensors)
        if filtered is not tensors:
            tensors, form = filtered, (*form, "names through timm's checkpoint filter")
    else:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        blueprint = Blueprint(origin.architecture, {**own_args(origin.architecture, shapes), **origin.args})
    return Plan(blueprint, tensors, origin.image_size or _image_size(blueprint), form)


def _timm_plan(origin: Origin, tensors: Mapping[str, Tensor]) -> tuple[Blueprint, Mapping[str, Tensor]]:
    architecture = cast(str, origin.architecture)
    with torch.device("meta"):
        stock = build_model(Blueprint(base_architecture(architecture)))
    own = stock.state_dict()
    if own.keys() - tensors.keys():
        tensors = _filtered(stock, tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    stem = own.get("conv1.weight")
    if has_small_stem(shapes) and stem is not None and stem.shape[2:] == (7, 7):
        architecture = base_architecture(architecture) + CIFAR_STEM
    return Blueprint(architecture, {**_timm_args(architecture, shapes, own), **origin.args}), tensors


def _filtered(stock: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Renames with the filter that timm keeps for other people's checkpoints of a network, where it helps."""
    rename = getattr(sys.modules[type(stock).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return tensors
    try:
        renamed = cast(dict[str, Tensor], rename(dict(tensors), stock))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return tensors  # Not a checkpoint that the filter knows; the strict comparison says how it differs.
    own = stock.state_dict().keys()
    return renamed if len(own & renamed.keys()) > len(own & tensors.keys()) else tensors


def _timm_args(
    architecture: str, shapes: Mapping[str, tuple[int, ...]], own: Mapping[str, Tensor]
) -> dict[str, Any]:
    args: dict[str, Any] = {}
    for name in _classifiers(architecture):
        if shapes.get(f"{name}.weight"):
            args["num_classes"] = shapes[f"{name}.weight"][0]
    first = _pretrained(architecture).get("first_conv")
    if isinstance(first, str) and len(shapes.get(f"{first}.weight", ())) == 4:
        args["in_chans"] = shapes[f"{first}.weight"][1]
    geometry = vit_geometry(shapes)
    if geometry and "pos_embed" in own and own["pos_embed"].shape != shapes["pos_embed"]:
        args |= geometry
    return args


def _image_size(blueprint: Blueprint) -> int | None:
    """Returns the size that the weights were surely trained at, or None: then the data's is kept."""
    if blueprint.architecture.startswith("alexnet"):
        return 224
    if not is_timm(blueprint.architecture) or has_cifar_stem(blueprint.architecture):
        return None
    if "img_size" in blueprint.args:
        return cast(int, blueprint.args["img_size"])
    pretrained = _pretrained(blueprint.architecture)
    trained_on_imagenet = blueprint.args.get("num_classes", _IMAGENET_CLASSES) == _IMAGENET_CLASSES
    if pretrained.get("fixed_input_size") or trained_on_imagenet:
        return int(pretrained.get("input_size", (3, 224, 224))[-1])
    return None


def _classifiers(architecture: str) -> tuple[str, ...]:
    names = _pretrained(architecture).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _pretrained(architecture: str) -> dict[str, Any]:
    found = timm.get_pretrained_cfg(base_architecture(architecture)) if is_timm(architecture) else None
    return {} if found is None else cast(dict[str, Any], found.to_dict())
