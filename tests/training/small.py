"""The training loop on networks of a few hundred weights, without a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.extra import Extra
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import MemoryImages
from rrm_transfer.data.loader import TrainingLoader
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.objectives import build_objective
from rrm_transfer.objectives.teacher_labels import TeacherLabels
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.interruption import StopRequest
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.training.checkpoints import Checkpoints
from rrm_transfer.training.features.cache import FeatureCache
from rrm_transfer.training.optimization import Optimization
from rrm_transfer.training.selection import Judge, Selection, held_out_judge
from rrm_transfer.training.trainer import Trainer, TrainingResult
from rrm_transfer.training.updating import TrainingPlan
from tests.data.fixtures import memory_images

CLASSES = 4
SIZE = 8

PLAN = TrainingPlan(
    model="student",
    epochs=2,
    accumulation=1,
    optimization=Optimization(
        optimizer="momentum",
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="cosine",
        min_lr=0.0,
        milestones=(),
        decay_rate=0.1,
        warmup_epochs=0.5,
    ),
    threat=ThreatModel("Linf", 8 / 255),
    eps_warmup_epochs=0.5,
    clip_grad=None,
    precision="float32",
    channels_last=False,
    sync_batchnorm=False,
    checkpoint_minutes=10.0,
    log_every=1,
    skip_bad_steps=0,
    seed=0,
)


class Network(nn.Module):
    """A convolution, a normalization, a hidden layer and a classifier; its maps may be read as layers."""

    def __init__(self, *, norm: str = "batch", dropout: float = 0.0, seed: int = 0, layers: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.convolution = nn.Conv2d(1, 6, 3, stride=2, padding=1)
            self.norm = nn.BatchNorm2d(6) if norm == "batch" else nn.GroupNorm(1, 6)
            self.dropout = nn.Dropout(dropout)
            self.hidden = nn.Linear(6 * 16, 5)
            self.classifier = nn.Linear(5, CLASSES)
            self.layer_projections = nn.ModuleList(nn.Linear(6, 3) for _ in range(layers))

    def forward(self, x: Tensor) -> Outputs:
        x = x.to(self.convolution.weight.dtype)
        maps = F.gelu(self.norm(self.convolution(x - 0.5)))
        features = self.hidden(self.dropout(maps.flatten(1)))
        layers = tuple(projection(maps.mean((2, 3))) for projection in self.layer_projections)
        return Outputs(self.classifier(features), features, layers)


def frozen_teacher(*, layers: int = 0) -> Network:
    return Network(seed=1, layers=layers).requires_grad_(False).eval()


def small_images(count: int = 45) -> MemoryImages:
    return memory_images(count, channels=1, size=SIZE, classes=CLASSES)


def small_loader(
    images: MemoryImages, *, batch: int = 9, seed: int = 0, views: int | None = None, **changes: Any
) -> TrainingLoader:
    """Returns this process's stream of batches; ``changes`` replace arguments of the loader."""
    runtime = Runtime()
    settings: dict[str, Any] = {
        "fit": Fit("none", SIZE),
        "augmentation": Augmentation(crop_padding=1, flip=True),
        "rank": runtime.rank,
        "world": runtime.world,
        "device": runtime.device,
    }
    return TrainingLoader(images, global_batch_size=batch, seed=seed, views=views, **{**settings, **changes})


@dataclass
class Run:
    """One phase of training, and what it logged.

    Attributes:
        folder: Of its checkpoints.
        plan: What to do.
        objective: Its name.
        arguments: Its arguments.
        network: Arguments of ``Network``.
        float64: Whether student and teacher compute in float64; pixels are float32 in any case.
        batch: Images per step.
        stop_after: Step after which the run is asked to stop.
        images: To train on.
        select_every: Epochs between evaluations of selection.
        judge: Of selection, instead of a short PGD on images of its own.
        taught_by: The teacher; None: one like the student.
        views: Augmented versions of each image; None: one for each epoch.
        features: A cache of the teacher's outputs.
        extra: Images that take a share of each batch.
        teacher_labels: Whether the teacher's answers are their labels.
        after_step: Called after each step.
    """

    folder: Path
    plan: TrainingPlan = PLAN
    objective: str = "rrm"
    arguments: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    float64: bool = False
    batch: int = 9
    stop_after: int | None = None
    images: MemoryImages = field(default_factory=small_images)
    select_every: int | None = None
    judge: Judge | None = None
    taught_by: nn.Module | None = None
    views: int | None = None
    features: FeatureCache | None = None
    extra: Extra | None = None
    teacher_labels: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    after_step: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.stop = StopRequest()
        self.student = Network(**self.network)
        self.teacher = self.taught_by or frozen_teacher(layers=self.network.get("layers", 0))
        if self.float64:
            self.student.double()
            self.teacher.double()
        context = Context.begin()
        objective = build_objective(self.objective, **self.arguments)
        if self.teacher_labels:
            objective = TeacherLabels(objective)
        judge = self.judge or held_out_judge(
            memory_images(10, channels=1, size=SIZE, classes=CLASSES),
            self.plan.threat,
            Measurement(SIZE, batch_size=5, seed=self.plan.seed, context=context),
        )
        self.selection = None if self.select_every is None else Selection(judge, every=self.select_every)
        self.trainer = Trainer(
            self.plan,
            context=context,
            student=self.student,
            teacher=self.teacher if objective.needs else None,
            objective=objective,
            loader=small_loader(
                self.images, batch=self.batch, seed=self.plan.seed, views=self.views, extra=self.extra
            ),
            checkpoints=Checkpoints(self.folder, self.plan.model, self.warnings.append),
            log=self._log,
            selection=self.selection,
            features=self.features,
        )

    def __call__(self, *, resume: bool = False) -> TrainingResult:
        return self.trainer.run(self.stop, resume=resume)

    def _log(self, event: str, facts: dict[str, Any]) -> None:
        self.events.append({"event": event, **facts})
        if event == "step" and self.after_step is not None:
            self.after_step()
        if event == "step" and facts["step"] == self.stop_after:
            self.stop.received = True

    def of(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.events if entry["event"] == event]

    @property
    def losses(self) -> list[dict[str, float]]:
        return [entry["losses"] for entry in self.of("step")]

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.student.state_dict().items()}


def with_optimization(plan: TrainingPlan, **changes: Any) -> TrainingPlan:
    return replace(plan, optimization=replace(plan.optimization, **changes))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Tells whether two states are the same to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
