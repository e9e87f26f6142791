"""Every form of checkpoint that is understood, and the fixture that stands for it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import dill  # type: ignore[import-untyped]
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rrm_transfer.core.stems import create_network
from rrm_transfer.teachers.checkpoints import open_checkpoint
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.networks import Blueprint, build_model
from rrm_transfer.teachers.planning import draw_plan
from rrm_transfer.teachers.sources import find_origin
from rrm_transfer.teachers.strictness import compare
from rrm_transfer.teachers.teacher import Teacher
from tests.teachers.fixtures import randomised

Tensors = dict[str, Tensor]
NARROW = {"channels": (8, 8, 16, 16), "num_classes": 10}
MEAN, STD = (0.4, 0.5, 0.6), (0.25, 0.2, 0.3)


def narrow(architecture: str = "resnet18", seed: int = 0) -> nn.Module:
    """Builds a ResNet-18 with few channels."""
    torch.manual_seed(seed)
    return randomised(create_network(architecture, **NARROW), seed)


def own(architecture: str, **args: object) -> nn.Module:
    """Builds a network of this package."""
    torch.manual_seed(0)
    return randomised(build_model(Blueprint(architecture, args)))


def hollow(architecture: str, **args: object) -> Tensors:
    """Returns a network's tensors by name, all zero and without memory of their own."""
    with torch.device("meta"):
        state = timm.create_model(architecture, **args).state_dict()
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Puts ``prefix`` in front of every name."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def statistics(mean: str, std: str) -> Tensors:
    """Returns a normalizer's buffers, shaped as wrappers hold them."""
    return {mean: torch.tensor(MEAN).view(1, 3, 1, 1), std: torch.tensor(STD).view(1, 3, 1, 1)}


def kuangliu(tensors: Mapping[str, Tensor]) -> Tensors:
    """Renames timm's ResNet to the names of pytorch-cifar."""
    return {
        re.sub(r"^fc\.", "linear.", name.replace(".downsample.", ".shortcut.")): tensor
        for name, tensor in tensors.items()
    }


def save(content: object, path: Path, *, legacy: bool = False, module: object = None) -> None:
    """Saves as torch does, or did before zip archives, or with another pickling module."""
    torch.save(
        content,
        path,
        pickle_module=module or pickle,
        _use_new_zipfile_serialization=not legacy,
    )


@dataclass(frozen=True)
class Form:
    """A checkpoint as somebody publishes it.

    Attributes:
        name: What it is.
        fixture: What stands for it here.
        content: What is saved.
        network: Whose outputs the teacher must give, where the fixture's weights are not hollow.
        architecture: That must be found.
        arguments: Of `load_teacher`.
        file: Its name; the suffix chooses the format.
        legacy: Whether it is saved in the format before zip archives.
        module: That pickles it, other than pickle.
    """

    name: str
    fixture: str
    content: Callable[[], object]
    architecture: str
    network: Callable[[], nn.Module] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    file: str = "teacher.pt"
    legacy: bool = False
    module: object = None

    def write(self, folder: Path) -> Path:
        """Saves the fixture in ``folder``."""
        path = folder / self.file
        if path.suffix == ".safetensors":
            save_file(cast(Tensors, self.content()), path)
        else:
            save(self.content(), path, legacy=self.legacy, module=self.module)
        return path

    def load(self, path: Path) -> Teacher:
        """Loads it as a user would, naming what the file does not say."""
        return load_teacher(str(path), channels=3, image_size=32, **self.arguments)

    def found(self, path: Path) -> str | None:
        """Returns the architecture that the weights find their place in, or None where they do not."""
        if self.network is not None:
            return self.load(path).architecture
        origin = find_origin(str(path), arch=self.arguments.get("arch"))
        plan = draw_plan(origin, open_checkpoint(path))
        with torch.device("meta"):
            fits = compare(build_model(plan.blueprint), plan.tensors).fits
        return plan.blueprint.architecture if fits else None


RAW = {"normalization": "none"}


def _state(seed: int = 0) -> Tensors:
    return narrow(seed=seed).state_dict()


def cifar_state() -> Tensors:
    """Returns the weights of a ResNet-18 with few channels and a CIFAR stem."""
    return narrow("resnet18+cifar_stem").state_dict()


def _cifar() -> nn.Module:
    return narrow("resnet18+cifar_stem")


def factory() -> nn.Module:
    """Builds a network that neither timm nor this package has."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)).eval()


def _prefixed_state(prefix: str) -> Tensors:
    return prefixed(prefix, _state())


_PREFIXES = (
    "module.",
    "model.",
    "net.",
    "base_model.",
    "_orig_mod.",
    "_orig_mod.module.",
    "module.model.",
)


def _madry() -> dict[str, object]:
    inner = prefixed("module.model.", cifar_state())
    copies = prefixed("module.attacker.model.", cifar_state())
    normalizers = {
        **statistics("module.normalizer.new_mean", "module.normalizer.new_std"),
        **statistics("module.attacker.normalize.new_mean", "module.attacker.normalize.new_std"),
    }
    return {"model": {**inner, **copies, **normalizers}, "epoch": 150, "optimizer": {"state": {}}}


def _trades() -> Tensors:
    tensors = own("wrn_10_1_trades").state_dict()
    unused = {f"sub_{name}": tensor.clone() for name, tensor in tensors.items() if name.startswith("block1.")}
    return {**tensors, **unused}


def _official_swin() -> Tensors:
    def official(name: str) -> str:
        name = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
        return name.replace("head.fc.", "head.")

    stock = hollow("swin_tiny_patch4_window7_224", num_classes=10)
    return {official(name): tensor for name, tensor in stock.items()}


FORMS = [
    Form("flat state dict (ARES 2.0)", "narrow ResNet-18", _state, "resnet18", narrow, RAW, "teacher.pth"),
    Form("safetensors", "narrow ResNet-18", _state, "resnet18", narrow, RAW, "teacher.safetensors"),
    Form(
        "entry `state_dict`",
        "narrow ResNet-18",
        lambda: {"state_dict": _state()},
        "resnet18",
        narrow,
        RAW,
        "t.ckpt",
    ),
    Form(
        "legacy torch format",
        "narrow ResNet-18",
        _state,
        "resnet18",
        narrow,
        RAW,
        "teacher.pth.tar",
        legacy=True,
    ),
    Form("saved with dill, tensors only", "narrow ResNet-18", _state, "resnet18", narrow, RAW, module=dill),
    *(
        Form(
            f"prefix `{prefix}`",
            "narrow ResNet-18",
            partial(_prefixed_state, prefix),
            "resnet18",
            narrow,
            RAW,
        )
        for prefix in _PREFIXES
    ),
    Form(
        "EMA beside the last weights (timm)",
        "two narrow ResNet-18",
        lambda: {"state_dict": _state(1), "state_dict_ema": _state()},
        "resnet18",
        narrow,
        RAW,
    ),
    Form(
        "EMA as torch's AveragedModel",
        "narrow ResNet-18",
        lambda: {**prefixed("module.", _state()), "n_averaged": torch.tensor(3)},
        "resnet18",
        narrow,
        RAW,
    ),
    Form(
        "MadryLab robustness: wrapper, attacker's copy, normalizer",
        "narrow CIFAR ResNet-18",
        _madry,
        "resnet18+cifar_stem",
        _cifar,
        file="teacher.ckpt",
    ),
    Form(
        "kuangliu's CIFAR ResNet",
        "narrow CIFAR ResNet-18",
        lambda: kuangliu(cifar_state()),
        "resnet18+cifar_stem",
        _cifar,
        RAW,
    ),
    Form(
        "RobustBench: kuangliu with `mu`, `sigma`",
        "narrow CIFAR ResNet-18",
        lambda: {**kuangliu(cifar_state()), **statistics("mu", "sigma")},
        "resnet18+cifar_stem",
        _cifar,
    ),
    Form(
        "normalization wrapper `0.mean`, `1.*`",
        "narrow ResNet-18",
        lambda: {**prefixed("1.", _state()), **statistics("0.mean", "0.std")},
        "resnet18",
        narrow,
    ),
    Form(
        "wrapper without buffers, `1.*`",
        "narrow ResNet-18",
        lambda: prefixed("1.", _state()),
        "resnet18",
        narrow,
        RAW,
    ),
    Form(
        "wrapper `normalize.mean`, `model.*`",
        "narrow ResNet-18",
        lambda: {**prefixed("model.", _state()), **statistics("normalize.mean", "normalize.std")},
        "resnet18",
        narrow,
    ),
    Form(
        "RobustBench PreActResNet-18",
        "the same with 4 channels",
        lambda: {**own("preact_resnet18", width=4).state_dict(), **statistics("mu", "sigma")},
        "preact_resnet18",
        lambda: own("preact_resnet18", width=4),
    ),
    Form(
        "PreActResNet-18 without a last norm, told apart by `--teacher-arch`",
        "the same with 4 channels",
        lambda: own("preact_resnet18_input_shortcut", width=4).state_dict(),
        "preact_resnet18_input_shortcut",
        lambda: own("preact_resnet18_input_shortcut", width=4),
        {**RAW, "arch": "preact_resnet18_input_shortcut"},
    ),
    Form(
        "Wide ResNet, TRADES dialect, unused `sub_block1`",
        "WRN-10-1",
        _trades,
        "wrn_10_1_trades",
        lambda: own("wrn_10_1_trades"),
        RAW,
    ),
    Form(
        "Wide ResNet, DeepMind dialect, with `--teacher-arch`",
        "WRN-10-1",
        lambda: {**own("wrn_10_1_deepmind_silu").state_dict(), **statistics("mean", "std")},
        "wrn_10_1_deepmind_silu",
        lambda: own("wrn_10_1_deepmind_silu"),
        {"arch": "wrn_10_1_deepmind_silu"},
    ),
    Form(
        "the RRM paper's CIFAR VGG11",
        "VGG11",
        lambda: own("cifar_vgg11").state_dict(),
        "cifar_vgg11",
        lambda: own("cifar_vgg11"),
        RAW,
    ),
    Form("ResNet-50", "hollow weights", lambda: hollow("resnet50"), "resnet50", None, RAW),
    Form(
        "Wide ResNet-50-2", "hollow weights", lambda: hollow("wide_resnet50_2"), "wide_resnet50_2", None, RAW
    ),
    Form(
        "Wide ResNet-50-4 (robust-imagenet-models)",
        "hollow weights",
        lambda: hollow("resnet50", base_width=256),
        "resnet50",
        None,
        RAW,
    ),
    Form("ResNeXt-50", "hollow weights", lambda: hollow("resnext50_32x4d"), "resnext50_32x4d", None, RAW),
    Form(
        "ViT-S, 224 px",
        "hollow weights",
        lambda: hollow("vit_small_patch16_224"),
        "vit_small_patch16_224",
        None,
        RAW,
    ),
    Form(
        "ViT-T, 32 px in patches of 4",
        "hollow weights",
        lambda: hollow("vit_tiny_patch16_224", img_size=32, patch_size=4, num_classes=10),
        "vit_tiny_patch16_224",
        None,
        RAW,
    ),
    Form(
        "Singh 2023: `base_model.`, ConvNeXt-T",
        "hollow weights",
        lambda: prefixed("base_model.", hollow("convnext_tiny")),
        "convnext_tiny",
        None,
        RAW,
    ),
    Form(
        "ARES 2.0 Swin, official names, with `--teacher-arch`",
        "hollow weights",
        _official_swin,
        "swin_tiny_patch4_window7_224",
        None,
        {**RAW, "arch": "swin_tiny_patch4_window7_224"},
    ),
    Form(
        "XCiT-S12, with `--teacher-arch`",
        "hollow weights",
        lambda: {"model": hollow("xcit_small_12_p16_224")},
        "xcit_small_12_p16_224",
        None,
        {**RAW, "arch": "xcit_small_12_p16_224"},
        "teacher.pth.tar",
    ),
    Form(
        "any other timm network, with `--teacher-arch`",
        "`test_efficientnet`",
        lambda: hollow("test_efficientnet", num_classes=10),
        "test_efficientnet",
        None,
        {**RAW, "arch": "test_efficientnet"},
    ),
    Form(
        "`package.module:factory` and a file",
        "a chain of three layers",
        lambda: factory().state_dict(),
        "tests.teachers.forms:factory",
        factory,
        {
            **RAW,
            "arch": "tests.teachers.forms:factory",
            "allow_code": frozenset({"tests.teachers.forms:factory"}),
        },
    ),
]
"""Hollow weights are zeros of the right shapes: what is tested is that they find their place."""
