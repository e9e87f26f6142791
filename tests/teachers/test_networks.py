from __future__ import annotations

import pytest
import torch
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.teachers.networks import Blueprint, build_model
from rrm_transfer.teachers.networks.wide_resnet import DeepMindWideResNet, _DeepMindBlock
from tests.teachers.fixtures import pixels

# Millions of parameters; those of the Wide ResNets as in Zagoruyko and Komodakis, table 3.
SIZES = {
    "wrn_28_10_trades": 36.5,
    "wrn_34_10_trades": 46.2,
    "wrn_34_20_trades": 184.5,
    "wrn_28_10_deepmind_silu": 36.5,
    "preact_resnet18": 11.2,
    "cifar_vgg11": 9.2,
    "resnet18+cifar_stem": 11.2,
    "resnet50+cifar_stem": 23.5,
}


@pytest.mark.parametrize("name", SIZES)
def test_size_is_the_published_one(name: str) -> None:
    with torch.device("meta"):
        model = build_model(Blueprint(name, {"num_classes": 10}))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == pytest.approx(SIZES[name], abs=0.11)


@pytest.mark.parametrize(
    "name",
    [
        "wrn_10_1_trades",
        "wrn_10_1_deepmind_relu",
        "preact_resnet18",
        "preact_resnet18_no_norm",
        "preact_resnet18_input_shortcut",
        "cifar_vgg11",
    ],
)
def test_own_networks_classify_from_their_features(name: str) -> None:
    narrow = {"width": 4} if name.startswith("preact") else {}
    model = build_model(Blueprint(name, {"num_classes": 7, "in_chans": 1, **narrow})).eval()
    outputs = model(pixels(channels=1))
    assert isinstance(outputs, Outputs)
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert torch.equal(classifier(outputs.features), outputs.logits)


def test_deepmind_pads_as_tensorflow_does() -> None:
    network = DeepMindWideResNet(depth=10, width=1, activation="relu")
    first = network.get_submodule("layer.1.block.0")
    assert isinstance(first, _DeepMindBlock)
    x = torch.rand(1, 16, 8, 8)
    first.conv_0.weight.data.zero_()
    first.conv_0.weight.data[:, :, 0, 0] = 1  # the kernel's near corner: no padding stands before it
    padded = nn.functional.pad(x, first.padding)
    assert torch.allclose(first.conv_0(padded)[0, 0], x[0].sum(0)[::2, ::2])


def test_variants_that_share_weights_compute_different_things() -> None:
    args = {"num_classes": 10, "width": 4}
    one = build_model(Blueprint("preact_resnet18_no_norm", args)).eval()
    other = build_model(Blueprint("preact_resnet18_input_shortcut", args)).eval()
    other.load_state_dict(one.state_dict())
    assert not torch.allclose(one(pixels()).logits, other(pixels()).logits)


def test_bad_arguments_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match="cannot be built"):
        build_model(Blueprint("test_vit", {"patch_size": "many"}))
