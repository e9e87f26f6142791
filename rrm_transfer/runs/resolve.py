"""The one place where what a recipe leaves open becomes a value.

Names, then what the teacher's source says, data, extra images, threat model, teacher, the student's plan, the
tables, the cache: each step needs only what stands above it. What comes out is a `Setup`, into which nothing
writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rrm_transfer.core.errors import RecipeError, UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.core.parameters import count_parameters
from rrm_transfer.core.quantities import counted
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.images import DataSet
from rrm_transfer.objectives import OBJECTIVES, argument_problems, build_objective, objective_arguments
from rrm_transfer.objectives.base import Objective
from rrm_transfer.recipe.defaults import (
    TrainingDefaults,
    check_together,
    fill_in,
    numerics,
    training_defaults,
    training_line,
)
from rrm_transfer.recipe.resolved import ResolvedRecipe
from rrm_transfer.recipe.schema import (
    AUTO,
    AugmentationSection,
    DataSection,
    ObjectiveSection,
    Recipe,
    TrainSection,
)
from rrm_transfer.runs.anchor import find_anchor
from rrm_transfer.runs.extra import find_extra, with_extra_labels, without_extra
from rrm_transfer.runs.models import ModelFacts, facts_about, load_data, load_model, require_classes
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runs.smoothness import check_smooth
from rrm_transfer.runs.start import check_head, choose_head, choose_start, weights_of
from rrm_transfer.runs.trainables import (
    is_teacher_network,
    kind_of_trainable,
    plan_trainable,
    resolve_trainable_name,
)
from rrm_transfer.runtime.configuration import Configuration
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.students.student import StudentPlan
from rrm_transfer.teachers.loading import own_size
from rrm_transfer.teachers.sources import find_origin
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.training.optimization import check_optimizer


def resolve(
    recipe: Recipe,
    context: Context,
    *,
    is_teacher: bool = False,
    recorded: Recipe | None = None,
    allow_code: frozenset[str] = frozenset(),
) -> Setup:
    """Chooses what a recipe leaves open and loads what it names; writes nothing.

    Args:
        recipe: Left unchanged.
        context: Processes and voice.
        is_teacher: Whether a robust teacher is made, from scratch.
        recorded: The recipe of the run that is to go on; what depends on the machine stays as it was then.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.

    Raises:
        UserError: A name, a file or a combination cannot be used.
    """
    narrator = context.narrator
    asked, seed = recipe.student.name, recipe.seed

    # Names come first, and a teacher is looked for before anything is loaded: a wrong word or an unreachable
    # hub should cost seconds.
    recipe, objective = check_names(recipe)
    if recipe.student.name != asked:
        narrator.note(f"student {asked}: {recipe.student.name}")
    source = recipe.teacher if objective.needs else None
    _check_source(recipe, objective, is_teacher=is_teacher)
    if source is not None:
        find_origin(source.name, arch=source.arch, weights=source.weights)

    # A teacher that the objective does not ask still says which data and threat model are meant, so that all
    # objectives of a recipe meet the same.
    known = ModelFacts() if recipe.teacher is None else facts_about(recipe.teacher.name)
    section = recipe.data
    if source is not None and section.image_size == AUTO:
        taken = own_size(source.arch or source.name, allow_code=allow_code)
        section = section if taken is None else section.changed(image_size=taken)
    loaded = load_data(section, known, seed=seed, context=context)
    data = loaded.images
    extra = find_extra(loaded, context)
    norm = (known.norm or "Linf") if recipe.threat.norm == AUTO else recipe.threat.norm
    eps = known.eps_in(norm) if recipe.threat.eps == AUTO else recipe.threat.eps
    threat = ThreatModel.asked(norm, eps)

    # The teacher, as it sees these data.
    teacher = None
    if source is not None:
        teacher = load_model(source, loaded, context, allow_code=allow_code)
        check_serves(teacher, objective, recipe, data)
        _tell_of_teacher(teacher, narrator)

    # The student, as far as that goes without weights. Whether it will have weights to start from decides how
    # it can be fitted to the images.
    kind = kind_of_trainable(recipe.student.name)
    row = training_defaults(kind, loaded.image_size)
    start = choose_start(recipe, row, teacher, recorded, narrator)
    head = choose_head(recipe, start, objective, teacher, recorded)
    check_head(head, objective)
    anchor = find_anchor(objective, start, loaded, context, allow_code=allow_code)
    if start == "teacher" and recipe.control.enabled:
        narrator.warn(
            "the control starts from scratch with settings for a student that has weights: what the student "
            "is ahead of it says little (--no-control leaves it out)"
        )
    student = plan_trainable(
        recipe.student,
        data,
        image_size=loaded.image_size,
        pretrained=start == "pretrained",
        weights=weights_of(recipe.student, start, teacher),
        projected=head == "ridge",
        seed=seed,
    )
    row = training_defaults(kind, loaded.image_size, with_weights=start != "scratch")
    arguments = recipe.student.args
    if isinstance(student, StudentPlan):
        _tell_of_student(student, teacher, narrator, taken=start == "teacher")
        arguments = dict(student.input.args) | ({"stem": student.input.stem} if student.input.stem else {})

    # What is still open is in the tables: of training, and of how the device computes it.
    recipe = recipe.changed(
        output=None,  # where a run was written is not part of what it was
        teacher=source,
        student=recipe.student.changed(start=start, head=head, args=arguments),
        data=loaded.section if recorded is None else _decoded_as(loaded.section, recorded),
        threat=recipe.threat.changed(norm=norm, eps=eps),
        train=recipe.train if recorded is None else _as_recorded(recipe, recorded),
        evaluate=recipe.evaluate.changed(eps=[eps]) if recipe.evaluate.eps == AUTO else recipe.evaluate,
    )
    accelerate = context.runtime.asked
    numbers = numerics(kind, bf16=context.runtime.has_bf16 or accelerate.precision == "bf16")
    recipe = fill_in(
        recipe,
        _for_channels(row, data.channels),
        numbers,
        compiled=accelerate.compile,
        workers=context.runtime.decoding_workers,
        whole=not context.runtime.sharding,
    )

    # The cache needs the augmentation and the epochs; whatever is left open now is a fault of this module.
    resolved = ResolvedRecipe.of(_with_cache(recipe, objective, narrator))
    context.runtime.check_divisible(resolved.train.global_batch_size, resolved.train.accumulation)
    if objective.differentiates_twice:
        check_smooth(resolved, student, narrator)
    narrator.note(training_line(resolved, row.source, kind))
    _tell_what_has_no_effect(resolved, objective, narrator, sharding=context.runtime.sharding)
    _tell_what_counts(resolved, accelerate, narrator)
    return Setup(
        resolved, is_teacher, objective, loaded, extra, threat, teacher, anchor, known, student, context
    )


def with_objective(setup: Setup, section: ObjectiveSection) -> Setup:
    """Returns a run with another objective.

    The recipe's own keeps the extra images. Others do without: not all can use them, and what a step costs
    does not depend on who has a label.

    Raises:
        UserError: Its teacher cannot serve it.
    """
    recipe: Recipe = setup.recipe.changed(objective=section)
    extra = setup.extra
    if section.name != setup.recipe.objective.name:
        recipe, extra = without_extra(recipe), None
    recipe, objective = check_names(recipe)
    teacher = setup.teacher if objective.needs else None
    if objective.needs:
        if teacher is None:
            raise _without_teacher(section.name)
        check_serves(teacher, objective, recipe, setup.loaded.images)
        check_head(setup.recipe.student.head, objective)
    resolved = ResolvedRecipe.of(recipe)
    anchor = setup.anchor
    if objective.anchor != setup.objective.anchor:
        anchor = find_anchor(objective, setup.recipe.student.start, setup.loaded, setup.context)
    if objective.differentiates_twice:
        check_smooth(resolved, setup.student, setup.context.narrator)
    return replace(setup, recipe=resolved, objective=objective, extra=extra, teacher=teacher, anchor=anchor)


def check_names(recipe: Recipe) -> tuple[Recipe, Objective]:
    """Checks what needs no data: names of student and optimizer, the objective, values that exclude others.

    Returns:
        A copy with the exact student name and every argument of the objective, and that objective.

    Raises:
        UserError: A name is unknown, an argument is wrong, or the objective cannot use the extra images.
    """
    check_together(recipe)
    student = recipe.student.changed(name=resolve_trainable_name(recipe.student.name))
    section = recipe.objective
    problems = objective_problems({"objective": section.model_dump()})
    if problems:
        hint = f"rrm-transfer run --objective {section.name} --help-objective lists its arguments"
        raise RecipeError(problems, hint=hint)
    given = section.arguments
    left_out = {a.name: a.default for a in objective_arguments(section.name) if a.name not in given}
    section = ObjectiveSection(name=section.name, **given, **left_out)
    objective = with_extra_labels(build_objective(section.name, **section.arguments), recipe)
    if recipe.train.optimizer != AUTO:
        check_optimizer(recipe.train.optimizer)
    return recipe.changed(student=student, objective=section), objective


def objective_problems(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Finds what is wrong with a recipe's objective, which the recipe's schema cannot know.

    Args:
        content: Of the whole recipe.

    Returns:
        Dotted paths with messages.
    """
    section = content.get("objective") or {}
    if not isinstance(section, Mapping) or not isinstance(section.get("name", ""), str):
        return []  # the schema says so
    name = section.get("name", ObjectiveSection().name)
    if name not in OBJECTIVES:
        hint = did_you_mean(str(name), OBJECTIVES)
        error = UserError(f"Unknown objective {name!r}.", allowed=sorted(OBJECTIVES), hint=hint)
        return [("objective.name", error.in_a_line)]
    problems = argument_problems(name, {key: value for key, value in section.items() if key != "name"})
    return [(f"objective.{argument}", error.in_a_line) for argument, error in problems]


def check_serves(teacher: Teacher, objective: Objective, recipe: Recipe, data: DataSet) -> None:
    """Checks that a teacher can give what an objective needs.

    Raises:
        UserError: It cannot.
    """
    logits = "logits" in objective.needs
    if logits and teacher.num_classes is None:
        raise UserError(
            f"The objective {recipe.objective.name!r} needs logits, and the teacher has no classifier.",
            received=teacher.name,
            hint="an objective that matches features only, such as rrm",
        )
    if "frozen_classifier" in objective.needs and teacher.classifier() is None:
        raise UserError(
            "The student cannot take over the teacher's classifier, which is not one linear layer.",
            received=teacher.name,
            hint="--set objective.freeze_classifier=false and objective.ce_weight=0.005, or another teacher",
        )
    if teacher.num_classes is not None:  # else only its representation is matched
        hint = (
            "an objective that matches features only, such as rrm"
            if logits
            else "--set teacher.features_only=true to match representations alone"
        )
        require_classes(teacher, data, hint=f"another --dataset, or {hint}")


def _without_teacher(objective: str) -> UserError:
    return UserError(f"The objective {objective!r} needs a teacher.", hint="name it: --teacher T")


def _check_source(recipe: Recipe, objective: Objective, *, is_teacher: bool) -> None:
    """Checks that what is trained learns from what it is to learn from."""
    name = recipe.objective.name
    if not objective.needs:
        return
    if is_teacher:
        raise UserError(
            "A robust teacher is made from scratch, and this objective learns from another.",
            received=name,
            allowed="one without a teacher: pgd-at, trades, fast-at, n-fgsm, free-at, gradnorm or natural",
            hint="--objective pgd-at, or rrm-transfer run to learn from a teacher",
        )
    if recipe.teacher is None:
        raise _without_teacher(name)
    if is_teacher_network(recipe.student.name):
        raise UserError(
            "A network that timm lacks can be taught from scratch, not be a student.",
            received=recipe.student.name,
            hint=f"rrm-transfer teach --student {recipe.student.name} --dataset D",
        )


def _tell_of_teacher(teacher: Teacher, narrator: Narrator) -> None:
    facts: Mapping[str, Any] = teacher.provenance
    narrator.note(
        f"teacher: {teacher.name}, {teacher.architecture}, {teacher.num_parameters:,} parameters, "
        f"{teacher.width} features, normalization {facts['normalization']}, {facts['view']}"
    )
    report = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in facts["load"].items())
    narrator.note(f"teacher: tensors {report}")


def _tell_of_student(
    student: StudentPlan, teacher: Teacher | None, narrator: Narrator, *, taken: bool
) -> None:
    plan = student.input
    bridge = ""
    if teacher is not None and teacher.width != plan.width:
        bridge = f", projected to the teacher's {teacher.width} and folded at export"
    narrator.note(
        f"student: {student.name}, {count_parameters(plan.model):,} parameters, {plan.width} features{bridge}"
    )
    for note in plan.notes:
        narrator.note(f"student: {note}")
    if teacher is not None and not taken and teacher.fits(plan.model):
        narrator.warn(
            "the teacher's weights fit this student tensor by tensor: the teacher can be deployed as it is, "
            "or be the start of training (student.start=teacher)"
        )


def _as_recorded(recipe: Recipe, recorded: Recipe) -> TrainSection:
    """Keeps what the table could answer otherwise on another machine: a run goes on to the last bit."""
    names = [
        name for name in ("precision", "channels_last", "compile") if getattr(recipe.train, name) == AUTO
    ]
    return recipe.train.changed(**{name: getattr(recorded.train, name) for name in names})


def _decoded_as(data: DataSection, recorded: Recipe) -> DataSection:
    return data.changed(workers=recorded.data.workers) if data.workers == AUTO else data


def _tell_what_counts(recipe: ResolvedRecipe, accelerate: Configuration, narrator: Narrator) -> None:
    train = recipe.train
    if accelerate.precision not in (None, train.precision):
        said, wish = f"train.precision={train.precision}", f"mixed_precision: {accelerate.precision}"
        narrator.warn(f"the recipe's {said} counts, not {wish} of accelerate's configuration")
    if accelerate.compile and not train.compile:
        said, wish = "train.compile=false", "dynamo_config"
        narrator.warn(f"the recipe's {said} counts, not {wish} of accelerate's configuration")


def _tell_what_has_no_effect(
    recipe: ResolvedRecipe, objective: Objective, narrator: Narrator, *, sharding: bool
) -> None:
    # Free AT, which alone uses a batch several times, attacks with the gradient of the training step itself.
    attacks_apart = objective.attacks and objective.replays == 1
    if recipe.train.attack_mode == "training" and not attacks_apart:
        name = recipe.objective.name
        narrator.warn(f"train.attack_mode=training has no effect: {name} has no attack in a mode of its own")
    if sharding and recipe.data.held_out and recipe.train.select_every is None:
        narrator.warn("no weights are selected by the held-out images, as FSDP2 shares the student out")


def _for_channels(row: TrainingDefaults, channels: int) -> TrainingDefaults:
    if channels == 3:
        return row
    return replace(row, augmentation=row.augmentation.changed(lighting=0.0))  # colour noise needs colours


def _with_cache(recipe: Recipe, objective: Objective, narrator: Narrator) -> Recipe:
    """Fills in what the cache leaves open, or does without it, and says what it will not do."""
    teacher = recipe.teacher
    if teacher is None or teacher.cache is None:
        return recipe
    cache = teacher.cache
    if "clean" not in objective.teacher_sees:
        narrator.note(
            f"teacher features: not cached, {recipe.objective.name} with these arguments never asks about "
            "clean images, which are all that a cache holds"
        )
        return recipe.changed(teacher=teacher.changed(cache=None))
    if "other" in objective.teacher_sees:
        narrator.note("teacher features: the objective also asks about other inputs, which is done live")
    views = cache.views
    section, epochs = recipe.data.augmentation, recipe.train.epochs
    if isinstance(section, AugmentationSection) and Augmentation(**section.model_dump()) == Augmentation():
        views = 1  # nothing is random: all views are one
    elif epochs != AUTO and views >= epochs:
        narrator.note(
            f"teacher features: {views} views for {counted(epochs, 'epoch')} save this run nothing, "
            "only those that come after it"
        )
    seed = recipe.seed if cache.seed == AUTO else cache.seed
    return recipe.changed(teacher=teacher.changed(cache=cache.changed(views=views, seed=seed)))
