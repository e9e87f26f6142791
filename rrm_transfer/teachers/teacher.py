"""A frozen network that sees the data in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn

from rrm_transfer.core.layers import Layer, LayerReader
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.parameters import count_parameters
from rrm_transfer.core.pixels import Normalize, PixelStatistics
from rrm_transfer.core.weights.identity import weights_hash
from rrm_transfer.teachers.networks.adapters import HookedNetwork, TimmNetwork
from rrm_transfer.teachers.view import View


class Teacher(nn.Module):
    """A robust network whose representation a student learns. Frozen, always in eval mode.

    Gradients reach the input where it requires them, never the weights.

    Args:
        network: Gives ``Outputs`` for normalized images.
        name: What messages and reports call it.
        architecture: Of the network, as `build_network` understands it.
        statistics: The network's own normalization.
        view: From the data to the network's input.
        has_classifier: Whether the logits mean something.
        class_names: In the order of the logits.
        provenance: Where it came from and how it was loaded.

    Attributes:
        width: Of the representation.
        num_classes: None where there is no usable classifier.
        channels: That the network takes.
        image_size: Side in pixels that the network sees; None: that of the data.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        architecture: str,
        statistics: PixelStatistics,
        view: View,
        has_classifier: bool = True,
        class_names: tuple[str, ...] | None = None,
        provenance: dict[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.architecture = architecture
        self.channels = view.channels[1]
        self.image_size = view.size[1]
        self.view = view
        self.normalize = Normalize(statistics.for_channels(self.channels))
        self.network = network
        self.provenance = {**(provenance or {}), "view": str(view), "normalization": str(statistics)}
        self._groups: tuple[tuple[int, ...], ...] | None = None
        self._reader = LayerReader(network, (), owner=name)
        self.requires_grad_(False)
        self.eval()
        probe = self._probe()
        self.width = probe.features.shape[1]
        self.num_classes: int | None = probe.logits.shape[1] if has_classifier else None
        self.class_names = class_names if has_classifier else None
        self._classifier = _linear_classifier(network, probe) if has_classifier else None

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever ``mode`` is: a teacher's batch statistics never change."""
        return super().train(False)

    def forward(self, x: Tensor) -> Outputs:
        """Maps pixels to logits, the representation and the intermediate layers that are read.

        Args:
            x: Pixels in [0, 1] at the data's size and channels, ``(B, C, H, W)``.
        """
        outputs = self._run(self.normalize(self.view(x)))
        if self._groups is None:
            return outputs
        columns = [outputs.logits[:, list(group)].logsumexp(1) for group in self._groups]
        return outputs._replace(logits=torch.stack(columns, 1))

    def _run(self, x: Tensor) -> Outputs:
        trunk = cast(Callable[[Tensor], Outputs], self.network)
        outputs, layers = self._reader.run(self._model, trunk, x)
        return outputs._replace(intermediates=layers) if layers else outputs

    @property
    def _model(self) -> nn.Module:
        """The network under the names that its authors gave to its modules."""
        return self.network.model if isinstance(self.network, TimmNetwork | HookedNetwork) else self.network

    @property
    def num_parameters(self) -> int:
        """How many weights the network has, its classifier's included."""
        return count_parameters(self._model)

    def named_tensors(self) -> dict[str, Tensor]:
        """Returns the network's weights and statistics, under the names that its authors gave them."""
        return self._model.state_dict()

    def fits(self, network: nn.Module) -> bool:
        """Tells whether the teacher's weights fit another network, tensor by tensor.

        Args:
            network: May be on the meta device.
        """
        own, other = self.named_tensors(), network.state_dict()
        return {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in other.items()
        }

    def read_layers(self, layers: Sequence[Layer]) -> list[int]:
        """Has ``forward`` return intermediate layers, averaged over positions.

        Args:
            layers: Names or indices; see :class:`LayerReader`.

        Returns:
            Their widths.

        Raises:
            UserError: The network has no such layer.
        """
        reader = LayerReader(self._model, layers, owner=f"The teacher {self.name}")
        if isinstance(self.network, TimmNetwork):
            self.network.reader = reader
        else:
            self._reader = reader
        return [layer.shape[1] for layer in self._probe().intermediates]

    def group_classes(self, groups: Sequence[Sequence[int]], names: Sequence[str] | None) -> None:
        """Gives the teacher the data's classes, each made of some of its own.

        A group's logit is the log of the sum of its members' exponentials, so that its probability is the
        sum of theirs among all classes in groups; a group of one keeps its logit.

        Args:
            groups: For each class of the data, the teacher's own classes.
            names: Of the data's classes.
        """
        self._groups = tuple(tuple(group) for group in groups)
        self.num_classes = len(self._groups)
        self.class_names = None if names is None else tuple(names)

    def fingerprint(self) -> str:
        """Returns the identity of its outputs: weights, architecture, view, classes, as 64 hex digits."""
        parts = {
            "architecture": self.architecture,
            "arguments": self.provenance.get("arguments"),
            "stem": self.provenance.get("stem"),
            "view": self.view,
            "statistics": self.normalize.statistics,
            "groups": self._groups,
        }
        return weights_hash(self.network.state_dict().items(), parts)

    def features(self, x: Tensor) -> Tensor:
        """Returns the representation, ``(B, width)``."""
        return self(x).features  # type: ignore[no-any-return]

    def logits(self, x: Tensor) -> Tensor:
        """Returns the logits, ``(B, classes)``."""
        return self(x).logits  # type: ignore[no-any-return]

    def classifier(self) -> tuple[Tensor, Tensor] | None:
        """Returns the weight ``(C, D)`` and bias ``(C,)`` that map representation to logits.

        None where the head is not one linear layer (or there is no usable classifier).
        """
        if self._classifier is None:
            return None
        weight, bias = _weight_and_bias(self.network.get_submodule(self._classifier))
        if self._groups is None:
            return weight, bias
        if any(len(group) > 1 for group in self._groups):
            return None
        rows = [group[0] for group in self._groups]
        return weight[rows], bias[rows]

    @torch.no_grad()
    def _probe(self) -> Outputs:
        side = self.view.size[0]
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(2, self.view.channels[0], side, side, generator=generator)
        return self(x.to(self.normalize.mean.device))  # type: ignore[no-any-return]


def _weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = cast(Tensor, module.weight).flatten(1), cast(Tensor | None, module.bias)
    return weight, weight.new_zeros(len(weight)) if bias is None else bias


def _linear_classifier(network: nn.Module, probe: Outputs) -> str | None:
    """Names the last linear map of ``network`` that alone turns the probe's features into its logits."""
    shape = (probe.logits.shape[1], probe.features.shape[1])
    tolerance = 1e-5 * float(probe.logits.abs().amax())
    modules: list[tuple[str, nn.Module]] = list(network.named_modules())
    for name, module in reversed(modules):
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.flatten(1).shape == shape:
            logits = nn.functional.linear(probe.features, *_weight_and_bias(module))
            if torch.allclose(logits, probe.logits, rtol=1e-4, atol=tolerance):
                return name
    return None
