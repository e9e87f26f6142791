"""Intermediate layers of any network, by name or index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean

Layer = str | int
"""A module's name, or a position among ``layer_names``, from the end where negative."""

T = TypeVar("T")


def layer_names(model: nn.Module) -> list[str]:
    """Returns the names that indices count: timm's feature maps, or modules of the upper two levels."""
    info: Any = getattr(model, "feature_info", None)
    if info and hasattr(model, "forward_intermediates"):
        entries = info if isinstance(info, list) else info.get_dicts()
        return [entry["module"] for entry in entries]
    return [name for name, _ in model.named_modules() if name and name.count(".") < 2]


class LayerReader:
    """Reads intermediate layers while a network runs, each averaged over its positions: ``(B, channels)``.

    timm's feature maps are read by ``forward_intermediates``, which knows the network's grid, its extra
    tokens and the order of its axes; all other modules by forward hooks.

    Args:
        model: Where the layers are.
        layers: Names or indices.
        owner: Names the network in messages.

    Raises:
        UserError: The model has no such layer.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], *, owner: str) -> None:
        self._owner = owner
        names = layer_names(model)
        found = [self._find(model, names, layer) for layer in layers]
        numbered = names if hasattr(model, "forward_intermediates") else []
        self._places: list[Layer] = [numbered.index(name) if name in numbered else name for name in found]

    def _find(self, model: nn.Module, names: list[str], layer: Layer) -> str:
        if isinstance(layer, int) and -len(names) <= layer < len(names):
            return names[layer]
        if isinstance(layer, str) and (layer in names or layer in dict(model.named_modules())):
            return layer
        raise UserError(
            f"{self._owner} has no such layer.",
            received=layer,
            allowed=f"{', '.join(names)}; their indices 0 to {len(names) - 1} (negative: from the end); "
            "or the name of any other module",
            hint=did_you_mean(str(layer), names),
        )

    def run(self, model: nn.Module, trunk: Callable[[Tensor], T], x: Tensor) -> tuple[T, tuple[Tensor, ...]]:
        """Runs the network as far as ``trunk`` does.

        Args:
            model: That in which the layers were found, or a copy.
            trunk: Of a timm network ``forward_features``, else all of it.
            x: Normalized images, ``(B, C, H, W)``.

        Returns:
            What ``trunk`` gives, and the layers in the order in which they were asked for.

        Raises:
            UserError: A layer does not run before the trunk ends, or gives something else than one map.
        """
        if not self._places:
            return trunk(x), ()
        caught: dict[Layer, Tensor] = {}
        indices = sorted({place for place in self._places if isinstance(place, int)})
        with ExitStack() as hooks:
            for place in self._places:
                if isinstance(place, str):
                    hook = self._catcher(caught, place, getattr(model, "output_fmt", "NCHW"))
                    hooks.enter_context(model.get_submodule(place).register_forward_hook(hook))
            if indices:
                forward = cast(Any, model).forward_intermediates
                result, maps = forward(x, indices=indices, output_fmt="NCHW")
                caught |= {index: values.mean((2, 3)) for index, values in zip(indices, maps, strict=True)}
            else:
                result = trunk(x)
        for place in self._places:
            if place not in caught:
                raise UserError(
                    f"This layer of {self._owner} does not run before the classifier.", received=place
                )
        return result, tuple(caught[place] for place in self._places)

    def _catcher(self, caught: dict[Layer, Tensor], place: str, axes: str) -> Callable[..., None]:
        def catch(_module: nn.Module, _inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not isinstance(first, Tensor) or not 2 <= first.dim() <= 4:
                raise UserError(
                    f"This layer of {self._owner} gives no map of features.",
                    received=f"{place}: {type(output).__name__}",
                )
            caught[place] = _pooled(first, axes)

        return catch


def _pooled(values: Tensor, axes: str) -> Tensor:
    """Averages over positions: of a vector, of tokens ``(B, N, C)``, or of a map with the given axes."""
    if values.dim() == 4:
        return values.mean((2, 3) if axes == "NCHW" else (1, 2))
    return values.mean(1) if values.dim() == 3 else values
