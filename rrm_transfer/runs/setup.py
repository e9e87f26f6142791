"""From a recipe to the parts of a run, with everything automatic filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.extra import Extra
from rrm_transfer.data.fit import Fit, choose_fit
from rrm_transfer.data.images import DataSet, ImageSet
from rrm_transfer.data.loader import TrainingLoader
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.training.features.cache import settle_cache
from rrm_transfer.runs.extra import find_extra
from rrm_transfer.runs.labels import align_labels
from rrm_transfer.runs.learners import (
    Learner,
    TeacherNetwork,
    build_teacher_network,
    kind_of_learner,
)
from rrm_transfer.runs.models import ModelFacts, facts_about
from rrm_transfer.training.objective import objective_of
from rrm_transfer.training.optimization import Optimisation
from rrm_transfer.training.pairing import TAKES_CLASSIFIER, pair
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.runs.recipe_names import check_names
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.training.updating import TrainingPlan
from rrm_transfer.objectives.base import Need, Objective
from rrm_transfer.recipe.defaults import SMALL_IMAGE, fill_in, training_defaults, training_line
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.students.pretrained import require_hub_weights
from rrm_transfer.students.student import Student, build_student
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.sources import find_origin
from rrm_transfer.teachers.teacher import Teacher

LARGE_DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Assembly:
    """The parts of a run.

    Attributes:
        recipe: Resolved, but for what ``calibrate`` measures.
        data: Images and labels.
        fit: How images are brought to the student's input size.
        teacher: None for training from scratch.
        teacher_facts: What its source says about it.
        threat: Of training and evaluation.
        broken: Images that this process could not read.
        extra: Images that the student is trained on beside those of ``data``.
    """

    recipe: Recipe
    data: DataSet
    fit: Fit
    teacher: Teacher | None
    teacher_facts: ModelFacts
    threat: ThreatModel
    broken: BrokenImages
    extra: Extra | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What tells the images of the run from others."""
        return {**self.data.identity, **({} if self.extra is None else self.extra.identity)}

    def control(self) -> Learner:
        """Builds the same student for plain training."""
        return make_student(self.recipe, self.data, self.fit.size, None)

    def student(self) -> Learner:
        """Builds the student with its initial weights; equal calls build equal students."""
        width = None if self.teacher is None else self.teacher.width
        student = make_student(self.recipe, self.data, self.fit.size, width)
        if self.teacher is None:
            return student
        if isinstance(student, TeacherNetwork):
            raise UserError(
                "A network that timm lacks can be taught from scratch, not be a student.",
                received=student.architecture,
                hint=f"rrm-transfer teach --student {student.architecture} --dataset D",
            )
        pair(student, self.teacher, self.objective(), seed=self.recipe.seed)
        return student

    def objective(self) -> Objective:
        """Builds the recipe's objective."""
        return objective_of(self.recipe)

    def loader(
        self, runtime: Runtime, images: ImageSet | None = None, *, extra: bool = True
    ) -> TrainingLoader:
        """Builds this process's stream of training batches.

        Args:
            runtime: Says which part of each batch it is.
            images: To train on; None: the data's training part.
            extra: Whether the run's extra images, if any, take their share of each batch.
        """
        images = self.data.train if images is None else images
        train, data = self.recipe.train, self.recipe.data
        cache = None if self.recipe.teacher is None else self.recipe.teacher.cache
        assert train.global_batch_size is not None
        assert data.augmentation is not None
        return TrainingLoader(
            images,
            fit=choose_fit(images.size, self.fit.size),
            augmentation=Augmentation(**data.augmentation.model_dump()),
            global_batch_size=train.global_batch_size,
            seed=self.recipe.seed,
            rank=runtime.rank,
            world=runtime.world,
            device=runtime.device,
            workers=data.workers,
            extra=self.extra if extra else None,
            views=None if cache is None else cache.views,
            view_seed=None if cache is None else cache.seed,
        )

    def plan(self, phase: str, epochs: int) -> TrainingPlan:
        """Makes the plan of one training phase; another number of epochs stretches the whole schedule.

        The control is plain training: its weights are not averaged.
        """
        train = self.recipe.train.model_dump()
        stretch = epochs / train["epochs"]
        train["milestones"] = [max(1, round(stretch * epoch)) for epoch in train["milestones"]]
        train["warmup_epochs"] *= stretch
        train["eps_warmup_epochs"] *= stretch
        names = ("optimizer", "lr", "momentum", "weight_decay", "schedule", "min_lr", "milestones")
        optimisation = Optimisation(
            **{name: train[name] for name in (*names, "decay_rate", "warmup_epochs")},
        )
        return TrainingPlan(
            phase=phase,
            epochs=epochs,
            optimisation=optimisation,
            threat=self.threat,
            seed=self.recipe.seed,
            ema=train["ema"] if phase == "student" else None,
            average_epochs=train["average_epochs"] if phase == "student" else None,
            **{
                name: train[name]
                for name in (
                    "accumulation", "eps_warmup_epochs", "clip_grad", "precision", "channels_last",
                    "sync_batchnorm", "compile", "gradient_checkpointing", "checkpoint_every", "log_every",
                    "skip_bad_steps",
                )
            },
        )  # fmt: skip


def assemble(recipe: Recipe, runtime: Runtime, narrator: Narrator, *, allow_code: bool = False) -> Assembly:
    """Builds the parts of a run and resolves its recipe.

    Raises:
        UserError: A name, a file or a combination cannot be used; nothing was written.
    """
    asked = recipe.student.name
    recipe = check_names(recipe)
    if recipe.student.name != asked:
        narrator.note(f"student {asked}: {recipe.student.name}")
    needs = objective_of(recipe).needs
    if needs and recipe.teacher is None:
        raise UserError(
            f"The objective {recipe.objective.name!r} needs a teacher.", hint="name it: --teacher T"
        )
    if needs and recipe.teacher is not None:
        # Before anything is loaded: an unknown name or an unreachable hub should cost seconds.
        find_origin(recipe.teacher.name, arch=recipe.teacher.arch, weights=recipe.teacher.weights)
    # Also where no teacher is needed, so that all objectives of a recipe meet the same data and threat model.
    known = ModelFacts() if recipe.teacher is None else facts_about(recipe.teacher.name)

    if recipe.data.name is None:
        if known.dataset is None:
            raise UserError(
                "The data set is not known.", hint="name it: --dataset D (or data.name in the recipe)"
            )
        recipe.data.name = known.dataset
        recipe.data.label_map = recipe.data.label_map or known.label_map
    threat = recipe.threat
    threat.norm = threat.norm or known.norm or "Linf"
    threat.eps = threat.eps or known.eps_in(threat.norm)

    broken = BrokenImages(recipe.data.max_broken, narrator.warn)
    with runtime.main_first():
        data = load_dataset_by_name(
            recipe.data.name,
            label_map=recipe.data.label_map,
            held_out=recipe.data.held_out,
            seed=recipe.seed,
            broken=broken,
        )
    for note in data.notes:
        narrator.note(f"data: {note}")
    with runtime.main_first():
        extra = find_extra(recipe, data, broken, narrator)
    recipe.data.image_size = recipe.data.image_size or automatic_size(data)
    fit = choose_fit(data.train.size, recipe.data.image_size)
    narrator.note(f"data: {data.name}, {len(data.train)} training and {len(data.test)} test images, {fit}")

    teacher = None
    if needs:
        with runtime.main_first():
            teacher = _load_teacher(recipe, data, fit, allow_code=allow_code)
        align_labels(teacher, data, narrator)
        check_fits(teacher, data, recipe, needs)
        narrator.note(
            f"teacher: {teacher.name}, {teacher.architecture}, width {teacher.width}, "
            f"normalisation {teacher.provenance['normalisation']}, {teacher.provenance['view']}"
        )
        counts = teacher.provenance["load"]
        assert isinstance(counts, Mapping)
        report = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items())
        narrator.note(f"teacher: tensors {report}")
    else:
        recipe.teacher = None

    kind = kind_of_learner(recipe.student.name)
    row = training_defaults(kind, fit.size)
    if recipe.student.pretrained is None:
        recipe.student.pretrained = (
            row.pretrained and recipe.student.weights is None and _weights_can_be_had(recipe, narrator)
        )
    student = make_student(recipe, data, fit.size, None if teacher is None else teacher.width)
    if isinstance(student, Student):
        for note in student.notes:
            narrator.note(f"student: {note}")
        recipe.student.args = {**student.model_args, **({"stem": student.stem} if student.stem else {})}
    if data.channels != 3:  # colour noise needs colours
        row = replace(row, augmentation=row.augmentation.model_copy(update={"lighting": 0.0}))
    recipe = fill_in(recipe, row)
    recipe.evaluate.eps = recipe.evaluate.eps or [threat.eps]
    settle_cache(recipe, narrator)
    runtime.check_divisible(recipe.train.global_batch_size or 1, recipe.train.accumulation)
    narrator.note(training_line(recipe, row.source, kind))
    asked_threat = ThreatModel.asked(threat.norm, threat.eps)
    return Assembly(recipe, data, fit, teacher, known, asked_threat, broken, extra)


def make_student(recipe: Recipe, data: DataSet, image_size: int, width: int | None) -> Learner:
    """Builds what the recipe trains on ``data``."""
    student = recipe.student
    network = build_teacher_network(
        student.name,
        num_classes=data.num_classes,
        channels=data.channels,
        image_size=image_size,
        args=student.args,
        seed=recipe.seed,
    )
    if network is not None:
        if student.pretrained or student.weights is not None or student.projection != "auto":
            raise UserError(
                "A network that timm lacks is trained from scratch and has no projection.",
                received=f"{student.name} with student.pretrained, student.weights or student.projection",
            )
        return network
    return build_student(
        student.name,
        num_classes=data.num_classes,
        channels=data.channels,
        image_size=image_size,
        feature_width=width,
        pretrained=bool(student.pretrained),
        weights=student.weights,
        args=student.args,
        projection=student.projection,
        seed=recipe.seed,
    )


def _weights_can_be_had(recipe: Recipe, narrator: Narrator) -> bool:
    """Tells whether timm's weights are at hand; asked for explicitly, their absence would be an error."""
    try:
        require_hub_weights(recipe.student.name)
    except UserError as error:
        narrator.warn(
            f"a transformer does better from timm's weights; this one starts from scratch: {error.what}"
        )
        return False
    return True


def automatic_size(data: DataSet) -> int:
    """Returns the native size of small square images, rounded up to a multiple of 8, else 224."""
    size = data.train.size
    if size is None or max(size) > SMALL_IMAGE:
        return LARGE_DEFAULT_SIZE
    return -(-max(size) // 8) * 8


def _load_teacher(recipe: Recipe, data: DataSet, fit: Fit, *, allow_code: bool) -> Teacher:
    section = recipe.teacher
    assert section is not None
    return load_teacher(
        section.name,
        arch=section.arch,
        weights=section.weights,
        normalisation=section.normalisation,
        channels=data.channels,
        image_size=fit.size,
        features_only=section.features_only,
        allow_code=allow_code,
    )


def check_fits(teacher: Teacher, data: DataSet, recipe: Recipe, needs: frozenset[Need]) -> None:
    """Checks that a teacher can give what the recipe's objective needs.

    Raises:
        UserError: It cannot.
    """
    section, logits = recipe.teacher, "logits" in needs
    assert section is not None
    if logits and teacher.num_classes is None:
        raise UserError(
            f"The objective {recipe.objective.name!r} needs logits, and the teacher has no classifier.",
            received=teacher.name,
            hint="an objective that matches features only, such as rrm",
        )
    if needs & TAKES_CLASSIFIER and teacher.classifier() is None:
        raise UserError(
            "The student cannot take over the teacher's classifier, which is not one linear layer.",
            received=teacher.name,
            hint="--set objective.classifier=own --set objective.ce_weight=0.005, or another teacher",
        )
    if teacher.num_classes == data.num_classes or (section.features_only and not logits):
        return
    raise UserError(
        "The teacher's classes do not fit the data.",
        received=f"{teacher.num_classes} classes of {teacher.name}, {data.num_classes} of {data.name}",
        allowed="the same number of classes, in the same order",
        hint="another --dataset, or --set teacher.features_only=true to match representations alone"
        if not logits
        else "another --dataset, or an objective that matches features only, such as rrm",
    )
