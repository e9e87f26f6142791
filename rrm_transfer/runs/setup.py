"""The parts of a run, with nothing left open; made by ``runs.resolve``."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import nn

from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.core.weights.identity import weights_hash
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.extra import Extra
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.images import ImageSet
from rrm_transfer.data.loader import TrainingLoader
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.evaluation.metrics import Model
from rrm_transfer.objectives.base import START, Objective
from rrm_transfer.recipe.resolved import ResolvedRecipe
from rrm_transfer.runs.models import LoadedData, ModelFacts
from rrm_transfer.runs.trainables import Trainable, TrainablePlan
from rrm_transfer.runtime.context import Context
from rrm_transfer.students.student import StudentPlan
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.training.optimization import Optimization
from rrm_transfer.training.passes import Passes, count_passes
from rrm_transfer.training.step import pair
from rrm_transfer.training.updating import TrainingPlan

SOLVED = 4096
"""Clean training images, at most, on which a projection is solved."""


@dataclass(frozen=True)
class Setup:
    """All that a run depends on.

    Attributes:
        recipe: Resolved.
        is_teacher: Whether what is trained is meant as a robust teacher.
        objective: What is minimised.
        loaded: Images and labels.
        extra: Images that the student is trained on beside those; None where the recipe names none.
        threat: Of training and evaluation.
        teacher: None for training from scratch.
        anchor: Of the objective, where another network than the student is its anchor.
        teacher_facts: What its source says about it.
        student: What is trained, before it has weights.
        context: Processes and voice.
    """

    recipe: ResolvedRecipe
    is_teacher: bool
    objective: Objective
    loaded: LoadedData
    extra: Extra | None
    threat: ThreatModel
    teacher: Teacher | None
    anchor: Teacher | None
    teacher_facts: ModelFacts
    student: TrainablePlan
    context: Context

    @property
    def measurement(self) -> Measurement:
        """How everything in this run is measured."""
        recipe = self.recipe
        return Measurement(
            self.loaded.image_size,
            recipe.evaluate.batch_size,
            recipe.seed,
            self.context,
            workers=recipe.data.workers,
        )

    @property
    def identity(self) -> dict[str, str]:
        """What tells the run's images, and the anchor that it is drawn to, from others."""
        found = {**self.loaded.images.identity, **({} if self.extra is None else self.extra.identity)}
        if self.objective.anchor is not None:
            network = self.anchor or self.build_student()
            found["anchor"] = weights_hash(network.state_dict().items())
        return found

    def anchor_beside(self, student: Trainable, objective: Objective) -> nn.Module | None:
        """Returns the frozen network that an objective has as its anchor, None where it has none.

        Args:
            student: As training begins.
            objective: What is minimised.
        """
        if objective.anchor == START:
            return copy.deepcopy(student).requires_grad_(False).eval()
        return None if objective.anchor is None else self.anchor

    def build_student(self) -> Trainable:
        """Builds the student with its initial weights; equal calls build equal students."""
        if self.teacher is None or not isinstance(self.student, StudentPlan):
            return self.student.build()
        student = self.student.build(self.teacher.width)
        pair(
            student,
            self.teacher,
            self.objective,
            seed=self.recipe.seed,
            takes_classifier=self.recipe.student.head != "own",
        )
        return student

    def build_control(self) -> Trainable:
        """Builds the same student for plain training; undefended, it takes no weights of the teacher."""
        plan = self.student
        if isinstance(plan, StudentPlan) and self.recipe.student.start == "teacher":
            plan = replace(plan, weights=None)
        return plan.build()

    @property
    def solved_images(self) -> int:
        """On how many clean training images the student's projection is solved; 0 where it is not."""
        return min(SOLVED, len(self.loaded.images.train)) if self.recipe.student.head == "ridge" else 0

    def loader(self, images: ImageSet | None = None, *, extra: bool = True) -> TrainingLoader:
        """Builds this process's stream of training batches.

        Args:
            images: To train on; None: the data's training part.
            extra: Whether the run's extra images, if any, take their share of each batch.
        """
        images = self.loaded.images.train if images is None else images
        recipe, runtime = self.recipe, self.context.runtime
        cache = None if recipe.teacher is None else recipe.teacher.cache
        return TrainingLoader(
            images,
            fit=choose_fit(images.size, self.loaded.image_size),
            augmentation=Augmentation(**recipe.data.augmentation.model_dump()),
            global_batch_size=recipe.train.global_batch_size,
            seed=recipe.seed,
            rank=runtime.rank,
            world=runtime.world,
            device=runtime.device,
            workers=recipe.data.workers,
            extra=self.extra if extra else None,
            views=None if cache is None else cache.views,
            view_seed=None if cache is None else cache.seed,
        )

    def passes(
        self, student: Trainable, objective: Objective, epochs: int, *, views: int | None = None
    ) -> Passes:
        """Counts what training costs, in passes of plain training.

        Args:
            student: That is or will be trained.
            objective: What is minimized.
            epochs: Of training.
            views: That a cache of the teacher's answers holds, 0 for none; None: as the recipe has it.
        """
        cache = None if self.recipe.teacher is None else self.recipe.teacher.cache
        if views is None:
            views = 0 if cache is None else cache.views
        extra = 0 if self.extra is None else len(self.extra)
        return count_passes(
            student,
            objective,
            epochs=epochs,
            image=(self.loaded.images.channels, self.loaded.image_size, self.loaded.image_size),
            threat=self.threat,
            teacher=self.teacher if objective.needs else None,
            anchor=self.anchor_beside(student, objective),
            cached_views=views if objective.needs else 0,
            extra=extra / len(self.loaded.images.train),
            solved=self.solved_images / len(self.loaded.images.train) if objective.needs else 0.0,
        )

    def plan(self, model: Model, epochs: int) -> TrainingPlan:
        """Makes the plan of one training phase; another number of epochs stretches the whole schedule.

        The control is plain training: its weights are not averaged.
        """
        train, averaged = self.recipe.train, model == "student"
        stretch = epochs / train.epochs
        return TrainingPlan(
            model=model,
            epochs=epochs,
            optimization=Optimization(
                optimizer=train.optimizer,
                lr=train.lr,
                momentum=train.momentum,
                weight_decay=train.weight_decay,
                schedule=train.schedule,
                min_lr=train.min_lr,
                milestones=[max(1, round(stretch * epoch)) for epoch in train.milestones],
                decay_rate=train.decay_rate,
                warmup_epochs=stretch * train.warmup_epochs,
            ),
            threat=self.threat,
            seed=self.recipe.seed,
            ema=train.ema if averaged else None,
            average_epochs=train.average_epochs if averaged else None,
            eps_warmup_epochs=stretch * train.eps_warmup_epochs,
            accumulation=train.accumulation,
            clip_grad=train.clip_grad,
            precision=train.precision,
            channels_last=train.channels_last,
            sync_batchnorm=train.sync_batchnorm,
            compile=train.compile,
            deterministic=train.deterministic,
            gradient_checkpointing=train.gradient_checkpointing,
            checkpoint_minutes=train.checkpoint_minutes,
            attack_mode=train.attack_mode,
            log_every=train.log_every,
            skip_bad_steps=train.skip_bad_steps,
        )
