"""Options that several commands share, spelled once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

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
TeacherNormalisation = Annotated[
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
        help="Steps that may be undone because loss or gradient is not finite.",
    ),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Of initial weights, data order, augmentation and attacks.")
]
Tracker = Annotated[str | None, typer.Option(help="Tell losses and figures to tensorboard, wandb, mlflow, …")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress, only results and errors.", callback=_silence_libraries),
]
