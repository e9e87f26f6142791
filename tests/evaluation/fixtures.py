"""Small convolutional networks, plain and adversarially trained, and an evaluator for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import save_for_hf
from torch import Tensor, nn

from rrm_transfer.attacks.ascent import InnerAttack
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.images import DataSet, ImageSet
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.evaluation.evaluator import Evaluator, Measurement
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator

EPS = 0.1
_TRAINING_IMAGES = 3000
_BATCH = 100


class Net(nn.Module):
    """Half a second per epoch; gives ``Outputs`` like every network of the engine."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.AvgPool2d(2),
                nn.Conv2d(1, 16, 5, stride=2, padding=2),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(512, 64),
                nn.ReLU(),
            )
            self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Outputs:
        features = self.body(x)
        return Outputs(self.classifier(features), features)


@cache
def data() -> DataSet:
    return load_dataset_by_name("fashion-mnist-mini")


def images(count: int) -> ImageSet:
    return data().test.select(list(range(count)))


@cache
def robust_net() -> nn.Module:
    """Trained on two-step PGD inputs; about 70 % clean and 50 % at ``EPS``."""
    return _trained(EPS, epochs=5)


@cache
def plain_net() -> nn.Module:
    return _trained(0.0, epochs=3)


def _trained(eps: float, *, epochs: int) -> nn.Module:
    net, train, threat = Net(), data().train, ThreatModel("Linf", eps)
    pixels = F.pad(train.pixels[:_TRAINING_IMAGES].float() / 255, (2, 2, 2, 2))  # type: ignore[attr-defined]
    rate, steps = 0.01, epochs * _TRAINING_IMAGES // _BATCH
    optimizer = torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for index in torch.randperm(_TRAINING_IMAGES, generator=generator).view(-1, _BATCH):
            x, y = pixels[index], train.labels[index]

            def loss(z: Tensor, y: Tensor = y) -> Tensor:
                return F.cross_entropy(net(z).logits, y, reduction="none")

            if eps:
                draws = Randomness(0, epoch, index)
                x = InnerAttack(2, 0.7).perturb(x, loss, threat, draws)
            optimizer.zero_grad()
            loss(x).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net.eval()


@cache
def _stock_net() -> nn.Module:
    """A plainly trained timm network, right about every other image, that takes normalized pixels."""
    train = data().train
    pixels = F.pad(train.pixels[:2000].float() / 255, (2, 2, 2, 2))  # type: ignore[attr-defined]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: nn.Module = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for index in torch.randperm(2000, generator=torch.Generator().manual_seed(0)).view(-1, 50):
        optimizer.zero_grad()
        F.cross_entropy(net((pixels[index] - 0.5) / 0.25), train.labels[index]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval()


def stock_folder(folder: Path) -> Path:
    """Writes a trained network as timm keeps it, for commands that take a model by its folder."""
    save_for_hf(
        _stock_net(),
        folder,
        safe_serialization=True,
        data_config={"mean": (0.5,), "std": (0.25,), "input_size": (1, 32, 32)},
    )
    return folder


def measurement(batch_size: int = 20, *, seed: int = 0, narrator: Narrator | None = None) -> Measurement:
    return Measurement(32, batch_size, seed, Context.begin(narrator))


def evaluator(
    network: nn.Module,
    count: int = 60,
    *,
    batch_size: int = 20,
    narrator: Narrator | None = None,
    **options: Any,
) -> Evaluator:
    how = measurement(batch_size, narrator=narrator)
    return Evaluator(network, images(count), how, model="student", split="test", **options)
