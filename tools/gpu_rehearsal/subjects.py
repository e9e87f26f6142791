"""Networks, images and steps that are rehearsed with: as large as is usual, or as small as can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import MemoryImages
from rrm_transfer.data.loader import Batch, TrainingLoader
from rrm_transfer.objectives import build_objective
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import Student, build_student
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.training.optimization import Optimization
from rrm_transfer.training.step import pair
from rrm_transfer.training.updating import TrainingPlan, Updater

CLASSES, SIZE, BATCH = 10, 32, 128
CROP_AND_FLIP = Augmentation(crop_padding=4, flip=True)

PLAN = TrainingPlan(
    model="student",
    epochs=1000,
    accumulation=1,
    optimization=Optimization(
        optimizer="momentum",
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="constant",
        min_lr=0.0,
        milestones=(),
        decay_rate=0.1,
        warmup_epochs=0.0,
    ),
    threat=ThreatModel("Linf", 8 / 255),
    eps_warmup_epochs=0.0,
    clip_grad=None,
    precision="bf16",
    channels_last=True,
    sync_batchnorm=False,
    checkpoint_minutes=10.0,
    log_every=20,
    skip_bad_steps=0,
    seed=0,
)
"""Of steps that are taken one by one."""


@dataclass(frozen=True)
class Subjects:
    """What is rehearsed with.

    Attributes:
        folder: Where what is made lies.
        small: Whether a CPU is to do all of it in seconds.
        runtime: Processes and device.
    """

    folder: Path
    small: bool
    runtime: Runtime = field(default_factory=Runtime)

    @property
    def on_gpu(self) -> bool:
        return self.runtime.device.type == "cuda"

    @property
    def network(self) -> str:
        """That of most parts: a ResNet-18 with a stem for small images."""
        return "test_resnet" if self.small else "resnet18"

    @property
    def arguments(self) -> Mapping[str, Any]:
        return {} if self.small else {"stem": "cifar"}

    def student(self, *, feature_width: int | None = None) -> Student:
        """Builds the student, untrained."""
        return build_student(
            self.network,
            num_classes=CLASSES,
            channels=3,
            image_size=SIZE,
            args=dict(self.arguments),
            feature_width=feature_width,
        )

    def teacher(self) -> Teacher:
        """Loads a teacher like the student, untrained: what a step costs does not depend on weights."""
        return load_teacher(str(self._teacher), channels=3, image_size=SIZE)

    @cached_property
    def _teacher(self) -> Path:
        folder = self.folder / "untrained"
        if not folder.exists():
            sample = torch.rand(2, 3, SIZE, SIZE)
            save_student(self.student(), folder, sample=sample, class_names=None, license=None, rrm={})
        return folder

    def updater(self, objective: str, plan: TrainingPlan = PLAN) -> Updater:
        """Makes what takes steps with an objective."""
        wanted = build_objective(objective)
        teacher = self.teacher() if wanted.needs else None
        student = self.student(feature_width=None if teacher is None else teacher.width)
        if teacher is not None:
            pair(student, teacher, wanted, seed=0, takes_classifier=False)
        return Updater(
            plan,
            runtime=self.runtime,
            student=student,
            teacher=teacher,
            objective=wanted,
            steps_per_epoch=390,
        )

    def batches(
        self,
        batch: int,
        *,
        augmentation: Augmentation = CROP_AND_FLIP,
        device: torch.device | None = None,
    ) -> Iterator[Batch]:
        """Yields batches of noise without end, made as in training."""
        images = 4 * batch if self.small else 390 * BATCH
        loader = TrainingLoader(
            noise(images),
            fit=Fit("none", SIZE),
            augmentation=augmentation,
            global_batch_size=batch,
            seed=0,
            device=device or self.runtime.device,
        )
        return (made for epoch in count() for made in loader.epoch(epoch))


def noise(images: int) -> MemoryImages:
    """Returns images that show nothing."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return MemoryImages(pixels=pixels, labels=torch.arange(images) % CLASSES)


def write_pictures(folder: Path, images: int, size: int, *, classes: int, kind: str) -> Path:
    """Writes files that are easy to tell apart, half of them to train on and half to test on.

    Args:
        folder: Is made.
        images: Of each half.
        size: Of their sides in pixels.
        classes: A folder each.
        kind: ``png`` or ``jpg``.
    """
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "test"):
        for number in range(images):
            label = number % classes
            shade: Tensor = torch.randint(0, 60, (size, size, 3), generator=generator)
            shade[:, label * size // classes : (label + 1) * size // classes] += 180
            place = folder / part / f"class{label}" / f"{number:05d}.{kind}"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shade.to(torch.uint8).numpy()).save(place)
    return folder
