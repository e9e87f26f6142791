"""Options that several commands share, spelled once: each by itself, and the groups in which they come."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import LARGEST_SEED, MOST

if TYPE_CHECKING:
    from rrm_transfer.recipe.schema import Recipe

_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""Keep libraries silent that read them when they are imported, and the processes that a command starts."""


def _silence_libraries(quiet: bool) -> bool:
    if quiet:
        os.environ.update(dict.fromkeys(_BARS, "1"))
    return quiet


Teacher = Annotated[
    str | None,
    typer.Option(help="Robust teacher: a zoo name, a timm or hf-hub: name, a weights file, or a run folder."),
]
TeacherArch = Annotated[
    str | None,
    typer.Option(help="Architecture of a weights file: a timm name, or package.module:factory."),
]
TeacherWeights = Annotated[Path | None, typer.Option(help="Local file that replaces the teacher's download.")]
TeacherNormalization = Annotated[
    str | None, typer.Option(help="none, imagenet, cifar10, or mean/std, where the source does not tell it.")
]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Run code that the recipe names, such as package.module:factory."),
]
Student = Annotated[str | None, typer.Option(help="timm architecture, or the beginning of its name.")]
StudentArgs = Annotated[
    list[str] | None, typer.Option("--student-arg", help="key=value for timm.create_model; may be repeated.")
]
Pretrained = Annotated[
    bool | None,
    typer.Option(
        "--pretrained/--no-pretrained", help="Start the student from timm's weights.", show_default=False
    ),
]
StudentWeights = Annotated[
    Path | None,
    typer.Option(help="Start the student from these weights of its architecture: a file, or a folder."),
]
_DATASET_FORMS = (
    "fashion-mnist-mini, a folder of images by class, a parquet file or folder, an idx folder, "
    "or a Hugging Face data set. Default: "
)
Dataset = Annotated[str | None, typer.Option(help=f"{_DATASET_FORMS}what the teacher was trained on.")]
OwnDataset = Annotated[
    str | None, typer.Option("--dataset", help=f"{_DATASET_FORMS}the recipe's, where it names one.")
]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="A recipe's name or YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Recipe override such as train.epochs=8; may be repeated.")
]
Output = Annotated[Path | None, typer.Option(help="Run folder. Default: runs/<recipe>-<student>-<UTC time>.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a run that stands in the output folder.")
]
OverwriteFile = Annotated[
    bool, typer.Option("--overwrite", help="Replace another file that stands where one is to be written.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in the output folder; start where there is none.")
]
ResumeAnyway = Annotated[
    bool,
    typer.Option(
        "--resume-anyway", help="As --resume, also with other processes or settings that a run survives."
    ),
]
SkipBadSteps = Annotated[
    int | None,
    typer.Option(
        "--skip-bad-steps",
        min=0,
        max=MOST,
        help="Steps that may be undone because loss or gradient is not finite.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, max=LARGEST_SEED, help="Of initial weights, data order, augmentation and attacks."),
]
Tracker = Annotated[str | None, typer.Option(help="Tell losses and figures to tensorboard, wandb, mlflow, …")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress, only results and errors.", callback=_silence_libraries),
]


def key_values(pairs: Iterable[str]) -> dict[str, Any] | None:
    """Reads ``key=value`` options; values are YAML scalars. None where there are none.

    Raises:
        UserError: One is not of this form.
    """
    from rrm_transfer.core.documents import parse_yaml

    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError("Not an argument.", received=pair, allowed="key=value")
        try:
            result[key] = parse_yaml(value)
        except ValueError as error:
            raise UserError(f"The value of an argument is not YAML: {error}", received=pair) from None
    return result or None


@dataclass(frozen=True)
class Source:
    """How a model is read, where its source does not tell it."""

    teacher_arch: TeacherArch = None
    teacher_weights: TeacherWeights = None
    teacher_normalization: TeacherNormalization = None

    def section(self, name: str | None) -> dict[str, Any]:
        """Returns the section of a recipe that names the model."""
        return {
            "name": name,
            "arch": self.teacher_arch,
            "weights": self.teacher_weights,
            "normalization": self.teacher_normalization,
        }

    def code(self, name: str | None) -> frozenset[str]:
        """Returns the ``package.module:factory`` that the command line itself names."""
        from rrm_transfer.runs.request import code_named_by

        return code_named_by(name, self.teacher_arch)


@dataclass(frozen=True)
class Asked:
    """What is trained, and the recipe that says how."""

    student: Student = None
    recipe: RecipeName = None
    overrides: Overrides = None
    student_arg: StudentArgs = None

    def wanted(self, base: str, sections: Mapping[str, dict[str, Any]], **top_level: Any) -> Recipe:
        """Returns the recipe that is asked for; see ``request``."""
        from rrm_transfer.recipe.loading import read_recipe
        from rrm_transfer.runs.request import request

        own = {"name": self.student, "args": key_values(self.student_arg or [])}
        return request(
            None if self.recipe is None else read_recipe(self.recipe),
            base=base,
            overrides=self.overrides or [],
            sections={**sections, "student": {**own, **sections.get("student", {})}},
            **top_level,
        )


@dataclass(frozen=True)
class Where:
    """The folder of a run, and what to do with a run that stands there."""

    output: Output = None
    overwrite: Overwrite = False
    resume: Resume = False
    resume_anyway: ResumeAnyway = False
    tracker: Tracker = None

    def for_python(self) -> dict[str, Any]:
        """Returns the options of ``api.transfer`` and ``api.teach``; the folder is in the recipe."""
        return {name: value for name, value in asdict(self).items() if name != "output"}


@dataclass(frozen=True)
class Training:
    """What a training can be told beside its recipe."""

    skip_bad_steps: SkipBadSteps = None
    seed: Seed = None
    pretrained: Pretrained = None
    student_weights: StudentWeights = None

    @property
    def student(self) -> dict[str, Any]:
        """Returns what a recipe's ``student`` section is told."""
        pretrained = self.pretrained
        if pretrained is None and self.student_weights is not None:
            pretrained = True
        start = {True: "pretrained", False: "scratch", None: None}[pretrained]
        return {"start": start, "weights": self.student_weights}


@dataclass(frozen=True)
class Voice:
    """How a command speaks."""

    as_json: AsJson = False
    quiet: Quiet = False


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Has a command take the options of each group that it names, in the place of the group."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        group = groups[parameter.name]
        own = get_type_hints(group, include_extras=True)
        parameters += [
            parameter.replace(name=field.name, default=field.default, annotation=own[field.name])
            for field in fields(group)
        ]

    @wraps(command)
    def expanded(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    # What typer reads.
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded
