"""The one reader of a finished run: what its folder holds, read once, checked, fit to be published."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from rrm_transfer.core.documents import as_form, damaged, parse_json, parse_yaml, read_form, read_text
from rrm_transfer.core.errors import RecipeError, UserError
from rrm_transfer.core.names import public_name
from rrm_transfer.core.printing import presentable
from rrm_transfer.core.threat import Norm, ThreatModel
from rrm_transfer.evaluation.gallery import Gallery, read_gallery
from rrm_transfer.evaluation.metrics import (
    BEST,
    Count,
    Facts,
    Finite,
    Metrics,
    Model,
    Radius,
    Seconds,
    Share,
    Whole,
    metrics_of,
    read_metrics,
)
from rrm_transfer.recipe.defaults import describe_start
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.spent import Spent
from rrm_transfer.students.folder import CONFIG
from rrm_transfer.teachers.networks.building import is_timm

_STATE = ".state.json"
"""Ends the names of unfinished evaluations."""
_LAST_YEAR = 253_402_300_799
"""Seconds at the end of the year 9999, which no clock shows."""


class HeldOut(Facts):
    """What the best weights were selected by."""

    clean: Share
    robust: Share
    count: Count
    attack: str


class Weights(Facts):
    """Which of the weights that training went through a network has; see ``products.describe_weights``."""

    step: Whole
    of_steps: Whole
    average: str
    held_out: HeldOut | None = None


class TeacherSource(Facts):
    """Where a teacher came from."""

    name: str
    sha256: str


class Threat(Facts):
    """The threat model of training."""

    norm: Norm
    eps: Radius


class NamedObjective(Facts):
    """The objective; every further key is an argument."""

    name: str


def _of_this_package(versions: dict[str, str]) -> dict[str, str]:
    if "rrm-transfer" not in versions:
        raise ValueError("the versions of libraries, rrm-transfer among them")
    return versions


class StartFacts(Facts):
    """Where training began; see the recipe's ``student``.

    Attributes:
        origin: The weights.
        weights: Name of the user's own.
        head: What stood behind the representation.
    """

    origin: Literal["scratch", "pretrained", "teacher"]
    weights: str | None
    head: Literal["own", "teacher", "ridge"]

    def __str__(self) -> str:
        return describe_start(self.origin, self.weights, self.head)


class Provenance(Facts):
    """How a network was made; see ``products.provenance``.

    Attributes:
        model: Which network of the run it is.
        is_teacher: Whether the run made a robust teacher.
        architecture: Of a network that timm would misread.
        stem: The replaced one.
    """

    versions: Annotated[dict[str, str], AfterValidator(_of_this_package)]
    model: Model
    is_teacher: Annotated[bool, Field(strict=True)]
    recipe: str
    objective: NamedObjective
    threat: Threat
    dataset: str
    dataset_license: str | None = None
    fit: str
    teacher: TeacherSource | None
    start: StartFacts | None = None
    weights: Weights
    architecture: str | None = None
    stem: str | None = None


class Input(Facts):
    """What the network takes."""

    input_size: tuple[Count, Count, Count]
    mean: list[Finite]
    std: list[Annotated[Finite, Field(gt=0)]]
    license: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not len(self.mean) == len(self.std) == self.input_size[0]:
            raise ValueError("as many means and deviations as channels")
        return self


class NetworkConfig(Facts):
    """``config.json`` of an exported network."""

    architecture: str
    num_classes: Count | None = None
    model_args: dict[str, Any] | None = None
    label_names: list[str] | None = None
    pretrained_cfg: Input
    rrm: Provenance

    @model_validator(mode="after")
    def _has_classes(self) -> Self:
        if not isinstance(self._classes(), int) or isinstance(self._classes(), bool) or self._classes() < 1:
            raise ValueError("num_classes of 1 or more, here or in model_args")
        return self

    def _classes(self) -> Any:
        return (
            self.num_classes if self.num_classes is not None else (self.model_args or {}).get("num_classes")
        )

    @property
    def classes(self) -> int:
        """How many there are; timm writes them beside the arguments, which need not hold them."""
        return int(self._classes())


class Environment(Facts):
    """``environment.json``."""

    processes: Count
    training_images: Annotated[str, Field(pattern=r"^[\d,]+, [0-9a-f]{16}$")]
    python: str
    platform: str
    versions: dict[str, str]
    devices: Annotated[list[str], Field(min_length=1)]


class Event(Facts):
    """One line of ``log.jsonl``."""

    event: str
    time: Annotated[Seconds, Field(le=_LAST_YEAR)]


class StepEvent(Event):
    """Losses since the step before that was logged, and the learning rate."""

    event: Literal["step"]
    model: Model
    step: Whole
    losses: Annotated[dict[str, Finite], Field(min_length=1)]
    lr: Finite


class SelectionEvent(Event):
    """Held-out accuracies."""

    event: Literal["selection"]
    model: Model
    step: Whole
    clean: Share | None = None
    robust: Share | None = None
    count: Count
    norm: Norm
    eps: Radius


_CONFIG, _ENVIRONMENT = TypeAdapter(NetworkConfig), TypeAdapter(Environment)
_EVENTS: dict[str, TypeAdapter[Any]] = {
    "step": TypeAdapter(StepEvent),
    "selection": TypeAdapter(SelectionEvent),
}
_ANY_EVENT = TypeAdapter(Event)
_ANYTHING = TypeAdapter(dict[str, Any])
_ANY_JSON: TypeAdapter[Any] = TypeAdapter(Any)


@dataclass(frozen=True)
class FinishedRun:
    """A run, as its folder tells it.

    Attributes:
        folder: Where it is.
        recipe: Resolved.
        metrics: Of the run.
        evaluations: Made of it afterwards, by file name.
        environment: Versions and devices.
        student: ``config.json`` of the network that is handed over; ``provenance`` is its section of ours.
        best: That of the best weights by the held-out part; None where there was no selection.
        events: Of ``log.jsonl``, in order.
        written_recipe: ``recipe.yaml`` as it may be published: without the output folder and local folders.
        model: Which of the run's networks is handed over: with the last weights, or with the best.
    """

    folder: Path
    recipe: Recipe
    metrics: Metrics
    evaluations: dict[str, Metrics]
    environment: Environment
    student: NetworkConfig
    best: NetworkConfig | None
    events: tuple[Event, ...]
    written_recipe: dict[str, Any]
    model: Model = "student"

    @property
    def network(self) -> Path:
        """Folder of the network that is handed over."""
        folder = RunFolder(self.folder)
        return folder.best if self.model == BEST else folder.student

    def with_best_weights(self) -> FinishedRun:
        """Returns the run with the best weights by the held-out part handed over.

        Raises:
            UserError: It selected none.
        """
        if self.best is None:
            raise UserError(
                "The run selected no best weights.",
                received=RunFolder(self.folder).best,
                hint="the run folder has the last ones; a recipe's data.held_out has the best selected",
            )
        return replace(self, student=self.best, model=BEST)

    @property
    def provenance(self) -> Provenance:
        """How that network was made."""
        return self.student.rrm

    @property
    def is_teacher(self) -> bool:
        """Whether the run made a robust teacher."""
        return self.provenance.is_teacher

    @property
    def noun(self) -> str:
        """What a sentence calls the network that the run made."""
        return "robust teacher" if self.is_teacher else "student"

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel(self.provenance.threat.norm, self.provenance.threat.eps)

    @property
    def architecture(self) -> str:
        """The network's name; a network that timm would misread has it in the provenance."""
        return self.provenance.architecture or self.student.architecture

    @property
    def form(self) -> Literal["stock", "ours", "teacher"]:
        """Who can load the network: stock timm, ``load_student``, or it is a ``--teacher`` only."""
        if self.provenance.stem is not None:
            return "ours"
        return "stock" if is_timm(self.architecture) else "teacher"

    @property
    def load_line(self) -> str:
        """The Python, or the command, that loads the student."""
        return {
            "stock": f'timm.create_model("local-dir:{self.network}", pretrained=True)',
            "ours": f'rrm_transfer.load_student("{self.network}")',
            "teacher": f"rrm-transfer run --teacher {self.folder}",
        }[self.form]

    @property
    def machine(self) -> str:
        """Processes and devices, which times depend on."""
        return f"{self.environment.processes} × {', '.join(self.environment.devices)}"

    def gallery(self) -> Gallery | None:
        """Reads the test images with their perturbations; None where none were kept.

        Raises:
            UserError: They are damaged, or are not of this network.
        """
        path = RunFolder(self.folder).gallery
        if not path.is_file():
            return None
        try:
            gallery = read_gallery(path)
        except UserError as problem:
            raise damaged(path, "", f"something else ({problem.what})", "the gallery of a run") from None
        channels, classes = self.student.pretrained_cfg.input_size[0], self.student.classes
        if (gallery.x.shape[1], gallery.logits.shape[1]) != (channels, classes):
            shape = f"images of {gallery.x.shape[1]} channels and {gallery.logits.shape[1]} logits"
            raise damaged(path, "", shape, f"{channels} channels and {classes} classes, as the student has")
        return gallery

    def spent(self, model: Model) -> Spent:
        """Returns what training ``model`` took; the best weights are those of the student's training."""
        timing = self.metrics.timing.get("student" if model == BEST else model) or {}
        # A teacher was trained in another run, maybe on another machine.
        return Spent.of(timing, machine=None if model == "teacher" else self.machine)

    def measurements(self) -> Iterator[tuple[str | None, Metrics]]:
        """Yields the run's metrics, named None, and every evaluation with its name."""
        yield None, self.metrics
        yield from self.evaluations.items()

    def of_student(self) -> Iterator[Metrics]:
        """Yields the measurements of the network that is handed over."""
        return (metrics for _, metrics in self.measurements() if metrics.of(self.model))

    def checks(self) -> Iterator[dict[str, Any]]:
        """Yields the checks of that network; the run itself makes them of the last weights only."""
        for metrics in self.of_student():
            if metrics is not self.metrics or self.model != BEST:
                yield from metrics.checks

    def statuses(self) -> Counter[str]:
        """Counts its checks; one made several times counts as it came out worst."""
        worst: dict[str, str] = {}
        for check in self.checks():
            statuses = (worst.get(check["name"], check["status"]), check["status"])
            worst[check["name"]] = min(statuses, key=severity)
        return Counter(worst.values())


class LeftOut(NamedTuple):
    """A folder that cannot be read, and why."""

    folder: Path
    reason: str


def severity(status: str) -> int:
    """Orders what a check can come to, the worst first."""
    return {"suspicious": 0, "pass": 1}.get(status, 2)


def read_finished(path: Path) -> FinishedRun:
    """Reads the folder of a finished run.

    Raises:
        UserError: It is no such folder, or was changed so that it is none any more.
    """
    folder = RunFolder(path)
    if not (folder.is_finished and folder.is_started):
        raise UserError(
            "No finished run here.",
            received=path,
            allowed="a folder that `rrm-transfer run` or `teach` has completed",
            hint="--resume completes a run that was interrupted" if folder.is_started else None,
        )
    folder.refuse_links()
    return read_run(folder, read_metrics(folder.metrics))


def read_handed_over(path: Path) -> FinishedRun:
    """Reads a finished run for a network of it.

    Args:
        path: The run folder: the student with its last weights; its ``student-best``: with the best ones.

    Raises:
        UserError: There is no finished run, or it selected no best weights.
    """
    of_run = RunFolder(path.parent)
    if path.name == of_run.best.name and not RunFolder(path).is_started:
        return read_finished(of_run.path).with_best_weights()
    return read_finished(path)


def read_run(folder: RunFolder, metrics: Metrics) -> FinishedRun:
    """Reads a run folder that is complete but for metrics.json, which is written last.

    Args:
        folder: Of the run.
        metrics: What metrics.json holds or will hold.

    Raises:
        UserError: The folder was changed or is damaged; the file and what is wrong in it are named.
    """
    recipe, written = _recipe(folder.recipe)
    return FinishedRun(
        folder=folder.path,
        recipe=recipe,
        metrics=metrics,
        evaluations=_evaluations(folder.evaluations),
        environment=read_form(folder.environment, _ENVIRONMENT),
        student=_config(folder.student),
        best=_config(folder.best) if folder.best.is_dir() else None,
        events=tuple(_events(folder.log_file)),
        written_recipe=written,
    )


def read_runs(paths: Iterable[Path]) -> tuple[list[FinishedRun], list[LeftOut]]:
    """Reads run folders; a folder that holds run folders stands for them.

    Returns:
        The finished runs in the order of ``paths``, and what cannot be read.

    Raises:
        UserError: A path is no run folder and holds none; all such are named.
    """
    folders = {path: list(_run_folders(path)) for path in paths}
    strangers = [str(path) for path, found in folders.items() if not found]
    if strangers:
        raise UserError(
            "Not a run folder.",
            received=", ".join(strangers),
            allowed="folders that rrm-transfer run, teach or sweep wrote",
        )
    runs: list[FinishedRun] = []
    left_out: list[LeftOut] = []
    for folder in dict.fromkeys(folder for found in folders.values() for folder in found):
        try:
            runs.append(read_finished(folder))
        except UserError as problem:
            unfinished = not RunFolder(folder).is_finished
            reason = "not finished: the same command with --resume continues it"
            left_out.append(LeftOut(folder, reason if unfinished else problem.in_a_line))
    return runs, left_out


def _run_folders(path: Path) -> Iterator[Path]:
    if RunFolder(path).is_started:
        yield path
    elif path.is_dir():
        yield from sorted(child for child in path.iterdir() if RunFolder(child).is_started)


def _recipe(path: Path) -> tuple[Recipe, dict[str, Any]]:
    content = read_form(path, _ANYTHING, parse_yaml)
    try:
        recipe = build_recipe(content)
        text = json.dumps(recipe.model_dump(mode="json"), allow_nan=False)
    except RecipeError as error:
        (field, message), *_ = error.problems
        raise damaged(path, field, "what no recipe holds", message) from None
    except (UserError, ArithmeticError, ValueError, TypeError) as error:
        raise damaged(path, "", f"what no recipe holds ({error})", "the resolved recipe") from None
    return recipe, _public({key: value for key, value in json.loads(text).items() if key != "output"})


def _config(folder: Path) -> NetworkConfig:
    """Reads how an exported network was made, its section of ours without local folders."""
    path = folder / CONFIG
    config = read_form(path, _CONFIG)
    public = _public(config.rrm.model_dump(mode="json", exclude_unset=True))
    return config.model_copy(update={"rrm": as_form(path, public, TypeAdapter(Provenance), "rrm.")})


def _evaluations(folder: Path) -> dict[str, Metrics]:
    """Reads the evaluations of a run; a user's own file among them, which holds no rows, is left aside."""
    files = sorted(path for path in folder.glob("*.json") if not path.name.endswith(_STATE))
    documents = ((path, read_form(path, _ANY_JSON)) for path in files)
    ours = [(path, content) for path, content in documents if isinstance(content, dict) and "rows" in content]
    return {presentable(path.stem): metrics_of(path, content) for path, content in ours}


def _events(path: Path) -> Iterator[Event]:
    if not path.exists():
        return
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise damaged(path, "", f"what cannot be read ({error})", "UTF-8 text in an ordinary file") from None
    # After the last line break stands what a killed process was writing.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            content = parse_json(line)
        except ValueError:
            raise damaged(path, f"line {number}", "what cannot be read", "JSON") from None
        form = next((form for name, form in _EVENTS.items() if _name(content) == name), _ANY_EVENT)
        yield as_form(path, content, form, f"line {number}, ")


def _name(event: Any) -> Any:
    return event.get("event") if isinstance(event, dict) else None


def _public(value: Any) -> Any:
    """Takes the folders from every string that is a local path."""
    if isinstance(value, dict):
        return {key: _public(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_public(entry) for entry in value]
    return public_name(value) if isinstance(value, str) else value
