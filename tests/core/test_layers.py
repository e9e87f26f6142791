from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.layers import Layer, LayerReader, layer_names


def network(name: str, **args: object) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=3, **args)
    return model.eval()


def read(model: nn.Module, *layers: Layer, size: int = 32) -> tuple[Tensor, ...]:
    reader = LayerReader(model, layers, owner="the network")
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result, found = reader.run(model, model.forward_features, x)  # type: ignore[arg-type]
        assert torch.equal(result, model.forward_features(x))  # type: ignore[operator]
    return found


def test_names_and_indices_are_timms_feature_maps() -> None:
    model = network("test_resnet")
    assert layer_names(model) == ["act1", "layer1", "layer2", "layer3", "layer4"]
    by_name, by_index, from_the_end = (read(model, layer)[0] for layer in ("layer2", 2, -3))
    assert torch.equal(by_name, by_index)
    assert torch.equal(by_name, from_the_end)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x))))))  # type: ignore[operator]
    torch.testing.assert_close(by_name, maps.mean((2, 3)))


def test_layers_come_in_the_order_asked_for_and_other_modules_by_hooks() -> None:
    model = network("test_resnet")
    last, inner, first, again = read(model, -1, "layer2.0.conv1", "layer1", -1)
    assert torch.equal(last, again)
    assert torch.equal(last, read(model, "layer4")[0])
    assert torch.equal(first, read(model, 1)[0])
    assert inner.shape == (2, model.get_parameter("layer2.0.conv1.weight").shape[0])


def test_tokens_and_maps_with_channels_last_are_averaged_over_positions() -> None:
    vit = network("test_vit", img_size=32)
    numbered, hooked = read(vit, "blocks.1", "blocks.1.mlp")
    assert numbered.shape == hooked.shape == (2, 64)
    swin = network("swin_tiny_patch4_window7_224", img_size=32, window_size=2, depths=(1, 1, 1, 1))
    numbered, hooked = read(swin, "layers.1", "layers.1.blocks")
    assert swin.output_fmt == "NHWC"
    torch.testing.assert_close(numbered, hooked)


class Plain(nn.Module):
    """No timm network; one of its modules gives a pair, one nothing, and one never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.pair = _Gives((torch.ones(2, 5), None))
        self.text = _Gives("text")
        self.idle = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.pair(x), self.text(x)
        out: Tensor = self.body(x).mean((2, 3))
        return out


class _Gives(nn.Module):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> object:
        return self.value


def test_networks_that_are_not_timms_are_read_by_hooks() -> None:
    model, x = Plain(), torch.rand(2, 3, 8, 8)
    assert layer_names(model) == ["body", "body.0", "body.1", "pair", "text", "idle"]
    reader = LayerReader(model, ("body.0", "pair", 2), owner="the network")
    result, (convolution, pair, activation) = reader.run(model, model, x)
    assert torch.equal(result, activation)
    torch.testing.assert_close(convolution, model.body[0](x).mean((2, 3)))
    assert torch.equal(pair, torch.ones(2, 5))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("layer", "parts"),
    [
        ("bdy", ["The network has no such layer", "bdy", "body, body.0", "did you mean body or"]),
        (6, ["0 to 5"]),
        ("idle", ["does not run before the classifier", "idle"]),
        ("text", ["gives no map of features", "text: str"]),
    ],
)
def test_layers_that_cannot_be_read_are_named(layer: Layer, parts: list[str]) -> None:
    model = Plain()
    with pytest.raises(UserError) as caught:
        LayerReader(model, (layer,), owner="The network").run(model, model, torch.rand(2, 3, 8, 8))
    for part in parts:
        assert part in str(caught.value)
