"""A model with its data: what is known of it before it is loaded, and the one way to load both.

What is trained from, evaluated, inspected or timed is loaded here, so that all commands see one model alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.core.threat import NORMS, Norm, ThreatModel
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.fit import Fit, choose_fit
from rrm_transfer.data.images import DataSet, ImageSet
from rrm_transfer.data.sources import find_index, load_dataset_by_name
from rrm_transfer.evaluation.evaluator import to_channels_last
from rrm_transfer.evaluation.metrics import read_metrics
from rrm_transfer.recipe.defaults import SMALL_IMAGE
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.recipe.schema import AUTO, Auto, DataSection, TeacherSection
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.teachers.labels import match_labels
from rrm_transfer.teachers.loading import load_teacher, own_size
from rrm_transfer.teachers.sources import find_origin
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.teachers.zoo import EMBEDDED, zoo_entry

SPLITS = ("test", "train", "held-out")
LARGE_DEFAULT_SIZE = 224
T = TypeVar("T")


@dataclass(frozen=True)
class ModelFacts:
    """What a run folder's recipe or the zoo says about a model; None where nothing does.

    Attributes:
        dataset: That it was trained on, as ``--dataset`` takes it.
        norm: Of its threat model.
        eps: Of its threat model, in pixel units.
        label_map: That was applied to the data.
        image_size: Side of its input in pixels.
        held_out: Part of the training data that was kept for selection.
        seed: With which that part was cut.
        max_broken: How many of the data's images may be unreadable.
        run: The run folder that it is, or lies in.
        part: Its folder's name in the run folder, ``student`` where the run folder itself was named.
        metrics: The figures that it comes with.
        published: Published figures in words.
        stated: Published clean and robust accuracy at its threat model, in percent.
    """

    dataset: str | None = None
    norm: Norm | None = None
    eps: float | None = None
    label_map: str | None = None
    image_size: int | None = None
    held_out: float = 0.0
    seed: int = 0
    max_broken: int = 0
    run: RunFolder | None = None
    part: str = "student"
    metrics: Path | None = None
    published: str | None = None
    stated: tuple[float, float] | None = None

    def section(self, dataset: str | None) -> DataSection:
        """Returns the data to measure the model on, as a recipe would name them.

        Args:
            dataset: As the user names it; None: what the model was trained on, cut as it was then.
        """
        section = DataSection(name=dataset or AUTO, image_size=self.image_size or AUTO)
        if section.name not in (AUTO, self.dataset):
            return section
        return section.changed(held_out=self.held_out, max_broken=self.max_broken)

    def stated_share(self, data: DataSection, threat: ThreatModel) -> float | None:
        """Returns the part of its clean accuracy that the model keeps by its source or its own run.

        Args:
            data: As loaded; what is said of other data says nothing here.
            threat: The radius of interest.
        """
        if data.name != self.dataset or data.label_map != self.label_map:
            return None
        clean, robust = self.stated or (0.0, 0.0)
        if self.metrics is not None:
            rows = [row for row in read_metrics(self.metrics).rows if row.model == "student"]
            clean = next((row.accuracy for row in rows if row.ball == "clean"), 0.0)
            found = [row.accuracy for row in rows if row.ball == str(threat)]
            return min(found) / clean if found and clean else None
        return robust / clean if clean and (self.norm, self.eps) == (threat.norm, threat.eps) else None

    def eps_in(self, norm: Norm) -> float:
        """Returns the radius to take where none was named: the model's, or 8/255 in Linf.

        Raises:
            UserError: The model's radius is one of another norm, and no other is customary.
        """
        if self.eps is not None and norm == self.norm:
            return self.eps
        if norm == "Linf":
            return 8 / 255
        if norm not in NORMS:
            raise UserError("Unknown norm.", received=norm, allowed=NORMS, hint=did_you_mean(norm, NORMS))
        raise UserError(
            f"There is no customary eps for {norm}.", hint="name it: threat.eps in the recipe, or --eps"
        )


def facts_about(name: str) -> ModelFacts:
    """Looks up a model by the name that a user gives it.

    Raises:
        UserError: It is of a run folder whose recipe cannot be read, or in which a link leads out of it.
    """
    path = Path(name.removeprefix("local-dir:"))
    within = not RunFolder(path).is_started
    folder, part = (RunFolder(path.parent), path.name) if within else (RunFolder(path), "student")
    if folder.is_started and path.is_dir():
        folder.refuse_links()
        recipe = read_recipe(str(folder.recipe))
        return ModelFacts(
            dataset=_said(recipe.data.name),
            norm=_said(recipe.threat.norm),
            eps=_said(recipe.threat.eps),
            label_map=_said(recipe.data.label_map),
            image_size=_said(recipe.data.image_size),
            held_out=recipe.data.held_out,
            seed=recipe.seed,
            max_broken=recipe.data.max_broken,
            run=folder,
            part=part,
            metrics=folder.metrics if folder.is_finished and part == "student" else None,
        )
    entry = zoo_entry(name)
    if entry is None:
        return ModelFacts()
    metrics = EMBEDDED / str(entry.file) / "metrics.json" if entry.source == "embedded" else None
    stated = None if entry.clean is None or entry.robust is None else (entry.clean, entry.robust)
    return ModelFacts(
        entry.dataset, entry.norm, entry.eps, metrics=metrics, published=entry.published, stated=stated
    )


def _said(value: T | Auto) -> T | None:
    return None if value == AUTO else value


@dataclass(frozen=True)
class LoadedData:
    """Images and labels, and how they reach a network.

    Attributes:
        section: What was loaded: name, label map and image size are chosen.
        images: The data set.
        image_size: Side of the network's input in pixels.
        broken: Images that this process could not read.
    """

    section: DataSection
    images: DataSet
    image_size: int
    broken: BrokenImages

    @property
    def fit(self) -> Fit:
        """How test images are brought to the input size."""
        return choose_fit(self.images.test.size, self.image_size)

    def part(self, split: str) -> ImageSet:
        """Returns a part of the data.

        Raises:
            UserError: There is no such part.
        """
        images = self.images
        part = {"test": images.test, "train": images.train, "held-out": images.held_out}[split]
        if part is None or not len(part):
            raise UserError(f"The data have no {split} part.", received=images.name, hint="another --split")
        return part


def load_data(section: DataSection, known: ModelFacts, *, seed: int, context: Context) -> LoadedData:
    """Loads the data that are named, else those that a model was trained on.

    Args:
        section: Of a recipe.
        known: Of the model.
        seed: With which the held-out part is cut.
        context: The first process lists files, and downloads before the others look.

    Raises:
        UserError: It is not known which, or they cannot be loaded.
    """
    name = known.dataset if section.name == AUTO else section.name
    if name is None:
        raise UserError(
            "The data set is not known.", hint="name it: --dataset D (or data.name in the recipe)"
        )
    label_map = section.label_map
    if label_map == AUTO:  # a teacher's grouping of classes means something on its own data alone
        label_map = known.label_map if name == known.dataset else None
    broken = BrokenImages(section.max_broken, context.narrator.warn)
    index = context.runtime.on_main(lambda: find_index(name))
    with context.runtime.main_first():
        images = load_dataset_by_name(
            name, label_map=label_map, held_out=section.held_out, seed=seed, broken=broken, index=index
        )
    for note in images.notes:
        context.narrator.note(f"data: {note}")
    size = automatic_size(images) if section.image_size == AUTO else section.image_size
    chosen = section.changed(name=name, label_map=label_map, image_size=size)
    loaded = LoadedData(chosen, images, size, broken)
    context.narrator.note(
        f"data: {images.name}, {len(images.train)} training and {len(images.test)} test images, {loaded.fit}"
    )
    return loaded


def automatic_size(data: DataSet) -> int:
    """Returns the native size of small square images, rounded up to a multiple of 8, else 224."""
    size = data.train.size
    if size is None or max(size) > SMALL_IMAGE:
        return LARGE_DEFAULT_SIZE
    return -(-max(size) // 8) * 8


def load_model(
    source: TeacherSection, data: LoadedData, context: Context, *, allow_code: frozenset[str] = frozenset()
) -> Teacher:
    """Loads a model, frozen, as these data are seen by it.

    Args:
        source: As the user names it.
        data: That it will be shown; their classes are those that it has, where that can be told.
        context: The first process downloads before the others look.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.

    Raises:
        UserError: It cannot be loaded.
    """
    with context.runtime.main_first():
        model = load_teacher(
            source.name,
            arch=source.arch,
            weights=source.weights,
            normalization=source.normalization,
            channels=data.images.channels,
            image_size=data.image_size,
            features_only=source.features_only,
            allow_code=allow_code,
        )
    align_labels(model, data.images, context.narrator)
    return model


def load_classifier(
    source: TeacherSection, data: LoadedData, context: Context, *, allow_code: frozenset[str] = frozenset()
) -> Teacher:
    """Loads a model to be measured; see ``load_model``.

    Raises:
        UserError: It cannot be loaded, or its classes do not fit.
    """
    model = load_model(source, data, context, allow_code=allow_code)
    require_classes(model, data.images, hint="another --dataset")
    to_channels_last(model)
    return model


def require_found(source: TeacherSection, known: ModelFacts) -> None:
    """Checks that a model exists, before its data are looked for.

    Raises:
        UserError: It does not.
    """
    if known.run is None:
        find_origin(source.name, arch=source.arch, weights=source.weights)


def load_with_data(
    source: TeacherSection,
    dataset: str | None,
    context: Context,
    *,
    image_size: int | None = None,
    allow_code: frozenset[str] = frozenset(),
) -> tuple[ModelFacts, LoadedData, Teacher]:
    """Loads a model to be measured and the data to measure it on.

    Args:
        source: The model as the user names it.
        dataset: None: what the model was trained on.
        context: See ``load_model``.
        image_size: Side in pixels of the images; None: the model's where it has one, else the data's.
        allow_code: See ``load_model``.

    Raises:
        UserError: One of them cannot be loaded, or they do not fit.
    """
    known = facts_about(source.name)
    require_found(source, known)
    image_size = image_size or known.image_size or own_size(source.arch or source.name, allow_code=allow_code)
    known = replace(known, image_size=image_size)
    data = load_data(known.section(dataset), known, seed=known.seed, context=context)
    return known, data, load_classifier(source, data, context, allow_code=allow_code)


def load_surrogate(
    name: str | None, known: ModelFacts, data: LoadedData, context: Context, *, required: bool
) -> Teacher | None:
    """Loads the named model to transfer perturbations from, else the teacher of the model's run.

    Raises:
        UserError: The named one, or a required one, cannot be loaded.
    """
    if name is not None:
        return load_classifier(TeacherSection(name=name), data, context)
    teacher = None if known.run is None else read_recipe(str(known.run.recipe)).teacher
    if teacher is None:
        return None
    try:
        return load_classifier(teacher.changed(features_only=False), data, context)
    except UserError as problem:
        if required:
            raise
        context.narrator.warn(f"no transfer from the teacher: {problem.what}")
        return None


def load_control(known: ModelFacts, data: LoadedData, context: Context) -> Teacher | None:
    """Loads the control that was trained beside a run's student, if there is one."""
    if known.run is None or known.part == "control" or not known.run.control.is_dir():
        return None
    return load_classifier(TeacherSection(name=str(known.run.control)), data, context)


def require_classes(model: Teacher, data: DataSet, *, hint: str) -> None:
    """Checks that a model has the data's classes.

    Raises:
        UserError: It has not.
    """
    if model.num_classes != data.num_classes:
        raise UserError(
            "The model's classes do not fit the data.",
            received=f"{model.num_classes} classes of {model.name}, {data.num_classes} of {data.name}",
            allowed="the same number of classes, in the same order",
            hint=hint,
        )


def align_labels(teacher: Teacher, data: DataSet, narrator: Narrator) -> None:
    """Gives a model the data's classes where they can be told; says what was done.

    A label map groups the classes of a teacher that has the source's own. Otherwise classes are compared by
    name where both sides have names: a teacher may have more of them, or another order.
    """
    if teacher.num_classes is None:
        return
    if data.label_groups is not None:
        if teacher.num_classes > max(max(group) for group in data.label_groups):
            narrator.note(
                f"{teacher.name}: its {teacher.num_classes} classes grouped into {data.num_classes}"
            )
            teacher.group_classes(data.label_groups, data.class_names)
        return
    if teacher.class_names is None or data.class_names is None or teacher.class_names == data.class_names:
        return
    index = match_labels(teacher.class_names, data.class_names)
    if index is None:
        if teacher.num_classes == data.num_classes:
            narrator.warn(
                f"the class names of {teacher.name} are not the data's ({teacher.class_names[0]!r} …, "
                f"{data.class_names[0]!r} …); they are taken in order"
            )
        return
    order = index.tolist()
    if order != list(range(teacher.num_classes)):
        narrator.note(f"{teacher.name}: {len(order)} of its {teacher.num_classes} classes matched by name")
        teacher.group_classes([[position] for position in order], data.class_names)
