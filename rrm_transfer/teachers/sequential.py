"""A plain ``torch.nn.Sequential`` in a checkpoint: what it looks like, and the factory that builds it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]

_NAME = re.compile(r"(\d{1,3})\.(weight|bias|running_mean|running_var|num_batches_tracked)", re.ASCII)
_SIZES = (32, 28, 64, 96, 128, 160, 224, 256)
"""Sides in pixels of usual images."""


@dataclass(frozen=True)
class _Layer:
    place: int
    weight: tuple[int, ...]
    bias: bool
    statistics: bool

    @property
    def kind(self) -> str:
        if self.statistics:
            return "BatchNorm"
        return {2: "Linear", 4: "Conv2d"}.get(len(self.weight), "unknown")

    @property
    def stride(self) -> int:
        """Kernels of even size are those of layers that halve the image."""
        return 1 if self.weight[2] % 2 else 2

    @property
    def padding(self) -> int:
        return (self.weight[2] - 1) // 2

    def __str__(self) -> str:
        return f"{self.place} {self.kind} {'x'.join(map(str, self.weight))}"


def _layers(shapes: Shapes) -> list[_Layer]:
    places = sorted({int(name.partition(".")[0]) for name in shapes if name.endswith(".weight")})
    return [
        _Layer(place, shapes[f"{place}.weight"], f"{place}.bias" in shapes, f"{place}.running_mean" in shapes)
        for place in places
    ]


def is_sequential(shapes: Shapes) -> bool:
    """Tells whether the names are those of layers in a row, of which two or more are matrices or filters."""
    if not all(_NAME.fullmatch(name) for name in shapes):
        return False
    return sum(layer.kind in ("Linear", "Conv2d") for layer in _layers(shapes)) > 1


def description(shapes: Shapes) -> str:
    """Lists the layers with weights, by place, kind and shape."""
    return ", ".join(map(str, _layers(shapes)))


def factory_text(shapes: Shapes) -> str:
    """Writes a module with a factory of the network, as far as shapes show it.

    What has no weights, strides and paddings are guessed as they are in most such networks; where the width
    of the first linear layer contradicts them, a comment says so.
    """
    layers = _layers(shapes)
    lines: list[str] = []
    before: _Layer | None = None
    for layer in layers:
        gap = layer.place - (0 if before is None else before.place + 1)
        lines += _between(before, layer, gap, _channels(layers, layer))
        lines.append(_written(layer, before, layers))
        before = layer
    body = "\n".join(f"        {line}" for line in lines)
    return f"from torch import nn\n\n\ndef network():\n    return nn.Sequential(\n{body}\n    )"


def _channels(layers: Iterable[_Layer], end: _Layer) -> int:
    """Returns the channels of the maps that reach a layer; 0 where nothing before it makes maps."""
    widths = [layer.weight[0] for layer in layers if layer.kind == "Conv2d" and layer.place < end.place]
    return widths[-1] if widths else 0


def _between(before: _Layer | None, layer: _Layer, gap: int, channels: int) -> list[str]:
    """Guesses ``gap`` layers without weights."""
    if gap == 0:
        return []
    if before is None:
        first = (
            "nn.Flatten()," if layer.kind == "Linear" else "nn.Identity(),  # what was here has no weights"
        )
        return ["nn.Identity(),  # what was here has no weights"] * (gap - 1) + [first]
    maps = channels and before.kind != "Linear"
    found = ["nn.ReLU(),"]
    if layer.kind == "Linear" and maps:
        pooled = "nn.AdaptiveAvgPool2d(1)," if layer.weight[1] == channels else "nn.MaxPool2d(2),"
        found = [*(found if gap > 1 else []), *([pooled] if gap > 2 else []), "nn.Flatten(),"]
    elif gap > 1:
        found.append("nn.MaxPool2d(2)," if maps else "nn.Dropout(),")
    return (
        found[: len(found) - 1]
        + ["nn.Identity(),  # no weights: what is it?"] * (gap - len(found))
        + found[-1:]
    )


def _written(layer: _Layer, before: _Layer | None, layers: list[_Layer]) -> str:
    out, *rest = layer.weight
    bias = "" if layer.bias else ", bias=False"
    if layer.kind == "Linear":
        return f"nn.Linear({rest[0]}, {out}{bias}),{_remark(layer, layers)}"
    if layer.kind == "Conv2d":
        given = _channels(layers, layer) or rest[0]
        groups = given // rest[0] if rest[0] and given % rest[0] == 0 else 1
        kernel = str(rest[1]) if rest[1] == rest[2] else f"({rest[1]}, {rest[2]})"
        grouped = f", groups={groups}" if groups > 1 else ""
        return (
            f"nn.Conv2d({rest[0] * groups}, {out}, {kernel}, stride={layer.stride}, padding={layer.padding}"
            f"{grouped}{bias}),  # stride and padding are guessed"
        )
    if layer.kind == "BatchNorm":
        return f"nn.BatchNorm{'1d' if before is not None and before.kind == 'Linear' else '2d'}({out}),"
    return f"nn.Identity(),  # weights of shape {tuple(layer.weight)}: what is it?"


def _remark(layer: _Layer, layers: list[_Layer]) -> str:
    """Says for which images the guesses give the width that the first linear layer takes, or that none do."""
    channels, width = _channels(layers, layer), layer.weight[1]
    first = next(each for each in layers if each.kind == "Linear")
    if layer is not first or not channels or width == channels:
        return ""
    side = round((width // channels) ** 0.5)
    if channels * side * side != width:
        return f"  # {width} is no square of {channels} channels"
    for size in _SIZES:
        if _side(layers, layer, size) == side:
            return f"  # {channels} x {side} x {side}: of images of {size} x {size}"
    return f"  # takes {channels} x {side} x {side}: mend strides, paddings and pooling above"


def _side(layers: list[_Layer], end: _Layer, size: int) -> int:
    before: _Layer | None = None
    for layer in layers:
        if before is not None:
            gap = layer.place - before.place - 1
            pooled = any(
                "MaxPool2d" in line for line in _between(before, layer, gap, _channels(layers, layer))
            )
            size = size // 2 if pooled else size
        if layer is end:
            break
        if layer.kind == "Conv2d":
            size = (size + 2 * layer.padding - layer.weight[2]) // layer.stride + 1
        before = layer
    return size
