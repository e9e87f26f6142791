"""What images a network of the user's own takes, found by trying; and which of its layers refuses others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError

SIZES = (32, 28, 64, 96, 128, 160, 224, 256, 299, 384)
"""Sides in pixels of usual images."""
_SMALL = 64
"""Who takes no images of this size has a size to be told, were it only the least one."""


class Takes(NamedTuple):
    """Images that a network takes.

    Attributes:
        channels: Of the images.
        size: Side in pixels; None: any.
    """

    channels: int
    size: int | None


def find_input(model: nn.Module, *, channels: int | None = None, size: int | None = None) -> Takes | None:
    """Tries images of usual sizes; None where the network takes none of them.

    Args:
        model: In evaluation mode.
        channels: The only ones to try; None: those of the first convolution, then RGB and grey.
        size: The only one to try.
    """
    tried: Iterable[int | None] = (first_channels(model), 3, 1) if channels is None else (channels,)
    for count in dict.fromkeys(tried):
        for side in SIZES if size is None else (size,):
            if count is not None and _runs(model, count, side):
                free = size is None and side <= _SMALL and _runs(model, count, 2 * side)
                return Takes(count, None if free else side)
    return None


def input_of(model: nn.Module, *, channels: int | None, size: int | None) -> Takes:
    """Returns what `find_input` finds.

    Raises:
        UserError: It finds nothing.
    """
    found = find_input(model, channels=channels, size=size)
    if found is None:
        channels, size = channels or first_channels(model) or 3, size or SIZES[0]
        require_input(model, channels, size)
        found = Takes(channels, size)
    return found


def channels_taken(model: nn.Module, channels: int, size: int) -> int:
    """Returns the channels that a network takes at the data's size: theirs, else RGB or grey in their place.

    Args:
        model: In evaluation mode.
        channels: Of the data.
        size: Side in pixels of the data.

    Raises:
        UserError: It takes no such images.
    """
    takes = find_input(model, channels=channels, size=size)
    if takes is None and channels in (1, 3):
        takes = find_input(model, channels=4 - channels, size=size)
    if takes is None:
        require_input(model, channels, size)
    return channels if takes is None else takes.channels


def first_channels(model: nn.Module) -> int | None:
    """Returns the channels that a network's first convolution takes."""
    return next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)


def require_input(model: nn.Module, channels: int, size: int) -> None:
    """Checks that a network takes images of the data's kind.

    Raises:
        UserError: It does not.
    """
    with explaining(model), torch.no_grad():
        model(_sample(channels, size))


@contextmanager
def explaining(model: nn.Module) -> Iterator[None]:
    """Tells an error inside a network by the layer that raised it.

    Raises:
        UserError: The network raised anything else.
    """
    open_layers: list[tuple[str, nn.Module, str]] = []

    def enter(layer: nn.Module, given: tuple[Any, ...]) -> None:
        shapes = [_shape(value) for value in given if isinstance(value, Tensor)]
        open_layers.append((names[layer], layer, ", ".join(shapes) or "no tensor"))

    def leave(*_: object) -> None:
        open_layers.pop()

    names = {layer: name for name, layer in model.named_modules()}
    handles = [layer.register_forward_pre_hook(enter) for layer in names]
    handles += [layer.register_forward_hook(leave) for layer in names]
    try:
        yield
    except UserError:
        raise
    except Exception as problem:  # whatever the user's network raises
        name, layer, given = open_layers[-1] if open_layers else ("", model, "the images")
        images = open_layers[0][2] if open_layers else given
        place = f"its layer {name!r}" if name else "its own forward"
        raise UserError(
            f"The teacher's network fails on images of shape {images}, in {place}: "
            f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}",
            received=f"{given} by {_in_a_line(layer)}",
            allowed=_allowed(model, handles),
            hint="images as the network takes them: --image-size and --channels (inspect), "
            "--set data.image_size=SIZE (run)",
        ) from problem
    finally:
        for handle in handles:
            handle.remove()


def _allowed(model: nn.Module, handles: Iterable[Any]) -> str | None:
    for handle in handles:
        handle.remove()
    takes = find_input(model)
    if takes is None:
        return None
    size = "of any usual size" if takes.size is None else f"of {takes.size} x {takes.size} pixels"
    return f"images {size} with {takes.channels} channel{'s' * (takes.channels != 1)}"


def _runs(model: nn.Module, channels: int, size: int) -> bool:
    try:
        with torch.no_grad():
            model(_sample(channels, size))
    except Exception:  # whatever the user's network raises
        return False
    return True


def _sample(channels: int, size: int) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _in_a_line(layer: nn.Module) -> str:
    """Writes a layer as torch does; of one that is made of others its class."""
    return type(layer).__qualname__ if any(layer.children()) else repr(layer)
