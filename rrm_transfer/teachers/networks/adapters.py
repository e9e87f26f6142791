"""Other people's classifiers as networks that give ``Outputs``."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.layers import LayerReader
from rrm_transfer.core.outputs import Outputs


class TimmNetwork(nn.Module):
    """A timm classifier; the representation is timm's ``pre_logits``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.reader = LayerReader(model, (), owner="the teacher")

    def forward(self, x: Tensor) -> Outputs:
        model = cast(Any, self.model)
        maps, layers = self.reader.run(self.model, model.forward_features, x)
        return Outputs(model.forward_head(maps), model.forward_head(maps, pre_logits=True), layers)


class HookedNetwork(nn.Module):
    """Any classifier that ends in a linear layer; the representation is that layer's input.

    Args:
        model: Maps normalized images to logits.
        sample: An input that the model takes, to find its last linear layer.

    Raises:
        UserError: The logits are no linear layer's output.
    """

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        super().__init__()
        self.model = model.eval()
        self._linear = self._find(sample)

    def _find(self, sample: Tensor) -> str:
        outputs: dict[str, Tensor] = {}
        handles = [
            module.register_forward_hook(lambda _m, _i, out, name=name: outputs.__setitem__(name, out))
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear)
        ]
        try:
            with torch.no_grad():
                logits = self.model(sample)
        finally:
            for handle in handles:
                handle.remove()
        if isinstance(logits, Tensor):
            for name, out in reversed(outputs.items()):
                if out.shape == logits.shape and torch.equal(out, logits):
                    return name
        raise UserError(
            "The teacher's logits are no linear layer's output, so it has no representation to match.",
            received=type(self.model).__qualname__,
            hint="let the factory return a module whose forward gives rrm_transfer.core.outputs.Outputs",
        )

    def forward(self, x: Tensor) -> Outputs:
        caught: list[Tensor] = []
        linear = self.model.get_submodule(self._linear)
        with linear.register_forward_pre_hook(lambda _module, args: caught.append(args[0])):
            logits = self.model(x)
        return Outputs(logits, caught[-1])


def adapt(model: nn.Module, sample: Tensor) -> nn.Module:
    """Returns ``model`` as a network that gives ``Outputs``.

    Args:
        model: A timm model, any classifier that ends in a linear layer, or a network that gives ``Outputs``.
        sample: A normalized input that the model takes, ``(B, C, H, W)``.

    Raises:
        UserError: It is none of these.
    """
    if hasattr(model, "forward_features") and hasattr(model, "forward_head"):
        return TimmNetwork(model)
    with torch.no_grad():
        if isinstance(cast(object, model.eval()(sample)), Outputs):
            return model
    return HookedNetwork(model, sample)
