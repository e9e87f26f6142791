"""A training step on a tiny float64 student and teacher, which records what an objective asks of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rrm_transfer.attacks.ascent import InnerAttack, PerSampleLoss
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives.base import Step

CLASSES = 4
WIDTH = 5


class TinyNet(nn.Module):
    """A smooth network with batch normalization; it gives one of its layers twice, projected."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(2, 3, 3, padding=1),
                nn.BatchNorm2d(3),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(48, WIDTH),
            )
            self.classifier = nn.Linear(WIDTH, CLASSES)
            self.layer_projections = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 2)])
            for parameter in self.parameters():
                nn.init.normal_(parameter, std=0.6)
        self.double()

    def forward(self, x: Tensor) -> Outputs:
        maps = self.body[:3](x)
        features = self.body[3:](maps)
        layers = tuple(projection(maps.mean((2, 3))) for projection in self.layer_projections)
        return Outputs(self.classifier(features), features, layers)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    net.eval()
    try:
        yield
    finally:
        net.train()


@dataclass
class FakeStep:
    """Implements ``Step`` in the plainest way.

    Attributes:
        unlabelled: Samples that have no label; the others count as much more.
        layers: How many intermediate layers student and teacher give.
        attacks: Every inner attack that was asked for.
        x_adv: The last one's result.
        seen: Every input that the student saw in training mode.
        taught: Every input of ``teacher``; the clean target does not count.
        clean_targets: How often the clean target was asked for.
        statistics_moved_by_attack: Whether the last attack touched the student's batch statistics.
    """

    net: TinyNet
    frozen: TinyNet
    x: Tensor
    y: Tensor
    threat: ThreatModel
    randomness: Randomness
    progress: float = 0.5
    first: int = 0
    unlabelled: Tensor | None = None
    layers: int = 0
    attacks: list[InnerAttack] = field(default_factory=list)
    x_adv: Tensor | None = None
    seen: list[Tensor] = field(default_factory=list)
    taught: list[Tensor] = field(default_factory=list)
    clean_targets: int = 0
    statistics_moved_by_attack: bool = False
    anchored: TinyNet = field(default_factory=lambda: TinyNet(seed=4).requires_grad_(False).eval())

    @property
    def label_weight(self) -> Tensor:
        labelled = torch.ones(len(self.y), dtype=torch.bool) if self.unlabelled is None else ~self.unlabelled
        return labelled.double() * len(labelled) / labelled.sum()

    def student(self, x: Tensor) -> Outputs:
        self.seen.append(x)
        return self._run(self.net, x)

    def student_eval(self, x: Tensor) -> Outputs:
        with evaluating(self.net):
            return self._run(self.net, x)

    def clean_teacher(self) -> Outputs:
        self.clean_targets += 1
        with torch.no_grad():
            return self._run(self.frozen, self.x)

    def anchor(self) -> Outputs:
        with torch.no_grad():
            return self._run(self.anchored, self.x)

    def teacher(self, x: Tensor) -> Outputs:
        self.taught.append(x)
        return self._run(self.frozen, x)

    def _run(self, net: TinyNet, x: Tensor) -> Outputs:
        outputs: Outputs = net(x)
        return outputs._replace(intermediates=outputs.intermediates[: self.layers])

    def attack(self, loss: PerSampleLoss, inner: InnerAttack) -> Tensor:
        self.attacks.append(inner)
        before = [buffer.clone() for buffer in self.net.buffers()]
        self.x_adv = inner.perturb(self.x, loss, self.threat, self.randomness)
        after = list(self.net.buffers())
        self.statistics_moved_by_attack = not all(map(torch.equal, before, after))
        return self.x_adv


def make_step(
    *,
    batch: int = 6,
    seed: int = 0,
    threat: ThreatModel | None = None,
    progress: float = 0.5,
    first: int = 0,
    net: TinyNet | None = None,
    layers: int = 0,
) -> FakeStep:
    """Returns a step on fixed images, some of whose pixels lie on the edge of the image range."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(batch, 2, 4, 4, generator=generator, dtype=torch.float64) * 1.2 - 0.1).clamp(0, 1)
    frozen = TinyNet(seed=2).requires_grad_(False).eval()
    step = FakeStep(
        net=net or TinyNet(seed=1),
        frozen=frozen,
        x=x,
        y=torch.randint(CLASSES, (batch,), generator=generator),
        threat=threat or ThreatModel("Linf", 0.1),
        randomness=Randomness(seed, 3, torch.arange(batch) + 10 * first),
        progress=progress,
        first=first,
        layers=layers,
    )
    _: Step = step
    return step
