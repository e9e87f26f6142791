"""``rrm-transfer inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import console, narrator, print_json
from rrm_transfer.cli.request import key_values, names_code
from rrm_transfer.core.errors import UserError


def inspect(
    name: Annotated[
        str | None, typer.Argument(help="A teacher, a run folder or a weights file. Without: the zoo.")
    ] = None,
    student: options.Student = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Of the student's data. Default: its own.")
    ] = None,
    channels: Annotated[int, typer.Option(min=1, help="Of the student's data.")] = 3,
    student_arg: options.StudentArgs = None,
    dataset: Annotated[
        str | None, typer.Option(help="Measure clean and short-PGD accuracy of the teacher on these data.")
    ] = None,
    convert: Annotated[
        Path | None,
        typer.Option(help="Write the file's tensors here as .safetensors; nothing in the file is run."),
    ] = None,
    teacher_arch: options.TeacherArch = None,
    teacher_weights: options.TeacherWeights = None,
    teacher_normalisation: options.TeacherNormalisation = None,
    as_json: options.AsJson = False,
) -> None:
    """Tell what a teacher, a file or a student is, before it is used.

    For example:

        rrm-transfer inspect

        rrm-transfer inspect robust.ckpt --teacher-normalisation imagenet

        rrm-transfer inspect old.pt --convert new.safetensors

        rrm-transfer inspect --student vit_small --image-size 32
    """
    if student is not None:
        _refuse_beside("--student", {"NAME": name, "--dataset": dataset, "--convert": convert})
        facts = _student(student, image_size, channels, key_values(student_arg or []) or {})
    elif name is None:
        _refuse_beside("no NAME", {"--dataset": dataset, "--convert": convert})
        _print_zoo(as_json)
        return
    elif convert is not None:
        facts = _convert(name, convert)
    else:
        facts = _teacher(name, dataset, teacher_arch, teacher_weights, teacher_normalisation)
    if as_json:
        print_json(facts)
    else:
        _print_facts(facts)


def _refuse_beside(what: str, others: dict[str, object]) -> None:
    given = [option for option, value in others.items() if value is not None]
    if given:
        raise UserError(
            f"These do not go together: {what} and {', '.join(given)}.", hint="rrm-transfer inspect --help"
        )


def _student(name: str, image_size: int | None, channels: int, args: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from rrm_transfer.students import describe_student

    return asdict(describe_student(name, channels=channels, image_size=image_size, args=args))


def _convert(name: str, target: Path) -> dict[str, Any]:
    from rrm_transfer.core.files import sha256_of
    from rrm_transfer.teachers.convert import convert

    convert(Path(name), target)
    return {"converted": name, "to": str(target), "sha256": sha256_of(target)}


def _teacher(
    name: str, dataset: str | None, arch: str | None, weights: Path | None, normalisation: str | None
) -> dict[str, Any]:
    from rrm_transfer.teachers.inspection import inspect_teacher

    allow_code = names_code(name, arch)
    facts = inspect_teacher(
        name, arch=arch, weights=weights, normalisation=normalisation, allow_code=allow_code
    )
    if dataset is not None:
        from rrm_transfer.engine.teacher_check import quick_accuracy

        facts |= quick_accuracy(
            name,
            dataset,
            arch=arch,
            weights=weights,
            normalisation=normalisation,
            allow_code=allow_code,
            narrator=narrator(quiet=False),
        )
    return facts


def _print_zoo(as_json: bool) -> None:
    from dataclasses import asdict

    from rrm_transfer.teachers.zoo import zoo

    if as_json:
        print_json([asdict(entry) for entry in zoo()])
        return
    from rich.table import Table

    from rrm_transfer.core.quantities import format_eps

    table = Table(title="robust teachers by name", box=None)
    table.add_column("name", no_wrap=True)
    for column in ("architecture", "data", "threat", "clean %", "robust %"):
        table.add_column(column)
    for entry in zoo():
        figures = ["–" if value is None else f"{value:g}" for value in (entry.clean, entry.robust)]
        threat = f"{entry.norm} {format_eps(entry.eps)}"
        table.add_row(entry.name, entry.architecture or "see its folder", entry.dataset, threat, *figures)
    console().print(table)


def _print_facts(facts: dict[str, Any]) -> None:
    width = max(map(len, facts))
    for key, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        typer.echo(f"{key.replace('_', ' '):<{width}}  {'–' if text in (None, '') else text}")
