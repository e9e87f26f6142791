"""The architecture of a checkpoint, from its keys and shapes, where they leave no doubt."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.stems import CIFAR_STEM
from rrm_transfer.teachers.networks import Blueprint
from rrm_transfer.teachers.sequential import description, factory_text, is_sequential

Shapes = Mapping[str, tuple[int, ...]]

_RESNETS: Mapping[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (2, 2, 2, 2)): "resnet26",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}
# (depth, groups, base width) of bottleneck networks that have a name of their own.
_WIDE_RESNETS = {
    ("resnet50", 1, 128): "wide_resnet50_2",
    ("resnet101", 1, 128): "wide_resnet101_2",
    ("resnet50", 32, 4): "resnext50_32x4d",
    ("resnet101", 32, 8): "resnext101_32x8d",
}
# Width and depth of ViTs; the number of heads, which shapes do not show, goes with the width.
_VITS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
_CONVNEXTS: Mapping[tuple[tuple[int, ...], int], str] = {
    ((3, 3, 9, 3), 96): "convnext_tiny",
    ((3, 3, 27, 3), 96): "convnext_small",
    ((3, 3, 27, 3), 128): "convnext_base",
    ((3, 3, 27, 3), 192): "convnext_large",
    ((3, 3, 27, 3), 256): "convnext_xlarge",
}
# Of this package's networks: first letters of the name, first convolution, classifier.
_OWN = (
    ("preact", "conv1.weight", "linear.weight"),
    ("wrn", "conv1.weight", "fc.weight"),
    ("wrn", "init_conv.weight", "logits.weight"),
    ("cifar_vgg", "features.0.weight", "classifier.weight"),
    ("alexnet", "features.0.weight", "classifier.6.weight"),
)


def guess(tensors: Mapping[str, Tensor], *, source: str) -> Blueprint:
    """Tells the architecture.

    Args:
        tensors: By the network's own names.
        source: Names the file in messages.

    Raises:
        UserError: The weights leave it open; the message lists what they could be.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for family in (_resnet, _preact_resnet, _trades, _deepmind, _vit, _convnext, _vgg, _alexnet):
        try:
            blueprint = family(shapes, source)
        except (ArithmeticError, IndexError, ValueError):
            continue  # A tensor of this family's name has another rank.
        if blueprint is not None:
            return blueprint
    if is_sequential(shapes):
        raise UserError(
            "The weights are those of a plain torch.nn.Sequential; strides, paddings and layers without "
            "weights do not stand in the file.",
            received=f"{source}: {description(shapes)}",
            hint="write my_teacher.py, mend what is guessed, then PYTHONPATH=. rrm-transfer … --teacher-arch "
            f"my_teacher:network\n\n{factory_text(shapes)}",
        )
    first, last = next(iter(shapes)), list(shapes)[-1]
    raise UserError(
        "The architecture cannot be told from the weights.",
        received=f"{source}: {len(shapes)} tensors, {first} {shapes[first]} to {last} {shapes[last]}",
        allowed="any timm name, or package.module:factory",
        hint="--teacher-arch NAME",
    )


def depths(shapes: Shapes, pattern: str) -> tuple[int, ...]:
    """Counts blocks per stage: ``pattern`` has a group for the stage and one for the block."""
    blocks = {match.groups() for name in shapes if (match := re.match(pattern, name))}
    stages = sorted({int(stage) for stage, _ in blocks})
    return tuple(sum(int(stage) == number for stage, _ in blocks) for number in stages)


def has_small_stem(shapes: Shapes) -> bool:
    """Tells whether a ResNet's first convolution is the 3×3 one of CIFAR networks."""
    return shapes.get("conv1.weight", ())[2:] == (3, 3)


def _ask(source: str, what: str, names: list[str]) -> UserError:
    return UserError(
        f"The weights are those of {what}, but do not show which of its variants.",
        received=source,
        allowed=names,
        hint="--teacher-arch NAME",
    )


def _resnet(shapes: Shapes, source: str) -> Blueprint | None:
    if not {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"} <= shapes.keys():
        return None
    if "layer1.0.se.fc1.weight" in shapes or "layer1.0.bn1.weight" not in shapes:
        return None
    kind = "bottleneck" if "layer1.0.conv3.weight" in shapes else "basic"
    name = _RESNETS.get((kind, depths(shapes, r"layer(\d+)\.(\d+)\.")))
    if name is None:
        return None
    args: dict[str, object] = {
        "num_classes": shapes["fc.weight"][0],
        "in_chans": shapes["conv1.weight"][1],
    }
    if kind == "bottleneck":
        channels, per_group = shapes["layer1.0.conv2.weight"][:2]
        groups, base_width = channels // per_group, per_group
        known = _WIDE_RESNETS.get((name, groups, base_width))
        if known is None and (groups, base_width) != (1, 64):
            args |= {"cardinality": groups, "base_width": base_width}
        name = known or name
    else:
        planes = tuple(shapes[f"layer{stage}.0.conv1.weight"][0] for stage in range(1, 5))
        if planes != (64, 128, 256, 512):
            args["channels"] = planes
    return Blueprint(name + (CIFAR_STEM if has_small_stem(shapes) else ""), args)


def own_args(architecture: str, shapes: Shapes) -> dict[str, object]:
    """Reads the constructor's arguments of this package's networks from a file of theirs.

    Empty where the file is of another network: the strict comparison that follows says how it differs.
    """
    for family, stem, classifier in _OWN:
        if architecture.startswith(family) and {stem, classifier} <= shapes.keys():
            break
    else:
        return {}
    if len(shapes[classifier]) < 2 or len(shapes[stem]) < 2:
        return {}
    args: dict[str, object] = {"num_classes": shapes[classifier][0], "in_chans": shapes[stem][1]}
    if family == "preact":
        args["width"] = shapes[stem][0]
    if family == "wrn" and classifier == "fc.weight":
        args["bias"] = "fc.bias" in shapes
    return args


def _preact_resnet(shapes: Shapes, source: str) -> Blueprint | None:
    if "linear.weight" not in shapes or "bn1.weight" in shapes or "layer1.0.bn2.weight" not in shapes:
        return None
    if depths(shapes, r"layer(\d+)\.(\d+)\.") != (2, 2, 2, 2) or "layer1.0.conv3.weight" in shapes:
        return None
    if "bn.weight" not in shapes:
        names = ["preact_resnet18_no_norm", "preact_resnet18_input_shortcut"]
        raise _ask(source, "a PreActResNet-18 without a last batch norm", names)
    return _own("preact_resnet18", shapes)


def _trades(shapes: Shapes, source: str) -> Blueprint | None:
    if not {"conv1.weight", "block1.layer.0.conv1.weight", "fc.weight"} <= shapes.keys():
        return None
    depth = 6 * depths(shapes, r"block(1)\.layer\.(\d+)\.")[0] + 4
    return _own(f"wrn_{depth}_{shapes['block1.layer.0.conv1.weight'][0] // 16}_trades", shapes)


def _deepmind(shapes: Shapes, source: str) -> Blueprint | None:
    if not {"init_conv.weight", "layer.0.block.0.conv_0.weight", "logits.weight"} <= shapes.keys():
        return None
    depth = 6 * depths(shapes, r"layer\.(0)\.block\.(\d+)\.")[0] + 4
    width = shapes["layer.0.block.0.conv_0.weight"][0] // 16
    names = [f"wrn_{depth}_{width}_deepmind_{activation}" for activation in ("silu", "relu")]
    raise _ask(source, "a Wide ResNet in DeepMind's dialect (silu in nearly all published ones)", names)


def _vit(shapes: Shapes, source: str) -> Blueprint | None:
    needed = {"patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight", "head.weight", "cls_token"}
    if not needed <= shapes.keys() or len(shapes["pos_embed"]) != 3:
        return None
    # Distillation tokens, layer scale, query norms and the like make it another network.
    if {"dist_token", "blocks.0.ls1.gamma", "blocks.0.attn.q_norm.weight", "norm_pre.weight"} & shapes.keys():
        return None
    blocks = {match[1] for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
    size = _VITS.get((shapes["pos_embed"][2], len(blocks)))
    if size is None:
        return None
    args = {"num_classes": shapes["head.weight"][0], **vit_geometry(shapes)}
    return Blueprint(f"vit_{size}_patch16_224", args)


def vit_geometry(shapes: Shapes) -> dict[str, object]:
    """Returns a ViT's channels, patch and image size; empty where the weights are of another kind."""
    if len(shapes.get("patch_embed.proj.weight", ())) != 4 or len(shapes.get("pos_embed", ())) != 3:
        return {}
    _, channels, patch, _ = shapes["patch_embed.proj.weight"]
    tokens = shapes["pos_embed"][1] - ("cls_token" in shapes)
    side = round(tokens**0.5)
    if side * side != tokens:
        return {}
    return {"in_chans": channels, "patch_size": patch, "img_size": side * patch}


def _convnext(shapes: Shapes, source: str) -> Blueprint | None:
    if not {"stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "head.fc.weight"} <= shapes.keys():
        return None
    blocks = depths(shapes, r"stages\.(\d+)\.blocks\.(\d+)\.")
    stem = shapes["stem.0.weight"]
    name = _CONVNEXTS.get((blocks, shapes["stages.0.blocks.0.conv_dw.weight"][0]))
    if name is None or stem[2:] != (4, 4) or "stages.0.blocks.0.mlp.grn.weight" in shapes:
        return None
    return Blueprint(name, {"num_classes": shapes["head.fc.weight"][0], "in_chans": stem[1]})


def _vgg(shapes: Shapes, source: str) -> Blueprint | None:
    if not {"features.0.weight", "features.1.running_mean", "classifier.weight"} <= shapes.keys():
        return None
    convolutions = sum(len(shape) == 4 for shape in shapes.values())
    depth = {8: 11, 10: 13, 13: 16, 16: 19}.get(convolutions)
    return None if depth is None else _own(f"cifar_vgg{depth}", shapes)


def _alexnet(shapes: Shapes, source: str) -> Blueprint | None:
    if shapes.get("features.0.weight", ())[2:] != (11, 11) or "classifier.6.weight" not in shapes:
        return None
    return _own("alexnet" if shapes["classifier.6.weight"][1] == 4096 else "alexnet_2048", shapes)


def _own(architecture: str, shapes: Shapes) -> Blueprint:
    return Blueprint(architecture, own_args(architecture, shapes))
