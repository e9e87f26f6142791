"""``rrm-transfer inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import narrator, print_facts, print_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import LARGEST_SIDE

if TYPE_CHECKING:
    from rrm_transfer.recipe.schema import TeacherSection
    from rrm_transfer.students.description import StudentDescription


@options.grouped
def inspect(
    source: options.Source,
    voice: options.Voice,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME…]",
            help="A teacher, a run folder or a weights file; several, to compare them. Without: the zoo.",
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(help="timm architecture, the beginning of its name, or a pattern such as 'vit_*'."),
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(help="Largest number of parameters that a pattern finds, such as 10M.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            "--input",
            min=1,
            max=LARGEST_SIDE,
            help="Of the data. Default: the network's own.",
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            min=1, max=LARGEST_SIDE, help="Of the data. Default: the network's own, 3 for a student."
        ),
    ] = None,
    student_arg: options.StudentArgs = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Measure the teacher on these data: clean accuracy, short PGD, certainty. "
            "Several are ranked, by a rule of thumb."
        ),
    ] = None,
    convert: Annotated[
        Path | None,
        typer.Option(help="Write the file's tensors here as .safetensors; nothing in the file is run."),
    ] = None,
) -> None:
    """Tell what a teacher, a file or a student is, before it is used.

    For example:

        rrm-transfer inspect

        rrm-transfer inspect robust.ckpt --teacher-normalization imagenet

        rrm-transfer inspect first.ckpt second.ckpt --dataset photos

        rrm-transfer inspect old.pt --convert new.safetensors

        rrm-transfer inspect --student vit_small --image-size 32

        rrm-transfer inspect --student 'vit_*' --max-params 10M --input 32
    """
    if max_params is not None or (student is not None and any(mark in student for mark in "*?[")):
        others = {"NAME": names, "--dataset": dataset, "--convert": convert, "--student-arg": student_arg}
        _refuse_beside("a search", others)
        _search(
            student or "*", max_params, image_size, channels or 3, as_json=voice.as_json, quiet=voice.quiet
        )
        return
    if student is not None:
        _refuse_beside("--student", {"NAME": names, "--dataset": dataset, "--convert": convert})
        facts = _student(student, image_size, channels or 3, options.key_values(student_arg or []) or {})
    elif not names:
        _refuse_beside("no NAME", {"--dataset": dataset, "--convert": convert})
        _print_zoo(voice.as_json)
        return
    elif len(names) > 1:
        own = {"--teacher-arch": source.teacher_arch, "--teacher-weights": source.teacher_weights}
        _refuse_beside("several NAMEs", {"--convert": convert, "--channels": channels, **own})
        _compare(names, dataset, source, image_size, voice)
        return
    elif convert is not None:
        facts = _convert(names[0], convert)
    else:
        facts = _teacher(names[0], source, image_size, channels)
        if dataset is not None:
            facts |= _measured(names[0], dataset, source, image_size, quiet=voice.quiet)
    if voice.as_json:
        print_json(facts)
    else:
        print_facts(facts)


def _refuse_beside(what: str, others: Mapping[str, object]) -> None:
    given = [option for option, value in others.items() if value not in (None, [])]
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
    name: str, source: options.Source, image_size: int | None, channels: int | None = None
) -> dict[str, Any]:
    from rrm_transfer.teachers.inspection import inspect_teacher

    return inspect_teacher(
        name,
        arch=source.teacher_arch,
        weights=source.teacher_weights,
        normalization=source.teacher_normalization,
        channels=channels,
        image_size=image_size,
        allow_code=source.code(name),
    )


def _measured(
    name: str, dataset: str, source: options.Source, image_size: int | None, *, quiet: bool
) -> dict[str, Any]:
    from rrm_transfer.recipe.schema import TeacherSection
    from rrm_transfer.runs.candidates import quick_accuracy
    from rrm_transfer.runtime.context import Context

    model = TeacherSection(**source.section(name))
    context = Context.begin(narrator(quiet))
    return quick_accuracy(model, dataset, context, image_size=image_size, allow_code=source.code(name))


def _compare(
    names: list[str],
    dataset: str | None,
    source: options.Source,
    image_size: int | None,
    voice: options.Voice,
) -> None:
    from rrm_transfer.recipe.schema import TeacherSection
    from rrm_transfer.report.screen import show

    described: dict[str, dict[str, Any]] = {}
    sections = []
    for name in names:
        # What the command line says of the normalization is meant for those whose source says nothing.
        facts, own = _teacher(name, options.Source(), image_size), source
        if facts["normalization"] != "unknown":
            own = options.Source()
        elif source.teacher_normalization is not None:
            facts = _teacher(name, source, image_size)
        same = [known for known, other in described.items() if other["sha256"] == facts["sha256"]]
        if same:
            raise UserError(
                "A teacher is named twice.", received=f"{same[0]} and {name}", hint="name it once"
            )
        described[name] = facts
        sections.append(TeacherSection(**own.section(name)))
    if dataset is not None:
        _rank(sections, described, dataset, image_size, voice)
    elif voice.as_json:
        print_json({"teachers": list(described.values())})
    else:
        for number, facts in enumerate(described.values()):
            show(*[""] * bool(number))
            print_facts(facts)
        if not voice.quiet:
            show("", "not ranked: --dataset D measures them on its images")


def _rank(
    sections: list[TeacherSection],
    described: dict[str, dict[str, Any]],
    dataset: str,
    image_size: int | None,
    voice: options.Voice,
) -> None:
    from rrm_transfer.report.screen import new_table, show
    from rrm_transfer.runs.candidates import RULE, rank_teachers
    from rrm_transfer.runs.request import code_named_by
    from rrm_transfer.runtime.context import Context

    context = Context.begin(narrator(voice.quiet))
    places = rank_teachers(
        sections, dataset, context, image_size=image_size, allow_code=code_named_by(*described)
    )
    if voice.as_json:
        print_json(
            {"ranking": [{**described[place.name], **place.to_json()} for place in places], "rule": RULE}
        )
        return
    table = new_table(
        f"teachers for {dataset}",
        "rank",
        "teacher",
        "verdict",
        figures=("clean %", "at eps %", "at 2 eps %", "entropy"),
    )
    for place in places:
        found, rank = place.candidate, "–" if place.rank is None else str(place.rank)
        figures = ["–"] * 4
        if found is not None:
            rows = (found.standing.clean, found.standing.near, found.standing.far)
            figures = [*(f"{100 * row.accuracy:.1f}" for row in rows), f"{found.entropy:.2f}"]
        table.add_row(rank, place.name, "not measured" if found is None else found.verdict, *figures)
    measured = [place.candidate.to_json() for place in places if place.candidate is not None]
    show(table, *(f"{place.rank or '–'}  {place.name}: {place.reason}" for place in places))
    if measured:
        show(f"on {measured[0]['count']} images, {measured[0]['threat']}, entropy in nats")
    show(RULE)


def _print_zoo(as_json: bool) -> None:
    from dataclasses import asdict

    from rrm_transfer.teachers.zoo import zoo

    if as_json:
        print_json([asdict(entry) for entry in zoo()])
        return
    from rrm_transfer.core.quantities import format_count, format_eps
    from rrm_transfer.report.screen import new_table, show

    table = new_table(
        "robust teachers by name",
        "name",
        "architecture",
        "data",
        "threat",
        "got",
        figures=("parameters", "clean %", "robust %"),
    )
    for entry in zoo():
        accuracies = ["–" if value is None else f"{value:g}" for value in (entry.clean, entry.robust)]
        figures = format_count(entry.parameters), *accuracies
        threat, architecture = f"{entry.norm} {format_eps(entry.eps)}", entry.architecture or "see its folder"
        table.add_row(entry.name, architecture, entry.dataset, threat, entry.got, *figures)
    show(table)


def _search(
    pattern: str, max_params: str | None, image_size: int | None, channels: int, *, as_json: bool, quiet: bool
) -> None:
    from dataclasses import asdict

    from rrm_transfer.core.quantities import parse_count
    from rrm_transfer.students.search import candidates, matching_names

    most = None if max_params is None else parse_count(max_params)
    names = matching_names(pattern)
    found, left_out = [], []
    with narrator(quiet).task("architectures", len(names)) as task:
        for number, candidate in enumerate(candidates(names, image_size=image_size, channels=channels), 1):
            task.update(number)
            description = candidate.description
            if description is None:
                left_out.append({"name": candidate.name, "reason": candidate.problem})
            elif most is None or description.parameters <= most:
                found.append(description)
    found.sort(key=lambda description: description.parameters)
    if as_json:
        print_json({"found": [asdict(description) for description in found], "left_out": left_out})
    else:
        _print_found(found, left_out)


def _print_found(found: list[StudentDescription], left_out: list[dict[str, Any]]) -> None:
    from rrm_transfer.core.quantities import format_count
    from rrm_transfer.report.screen import new_table, show

    columns = ("name", "kind", "timm's weights", "arguments chosen for the size")
    table = new_table("architectures", *columns, figures=("parameters", "input", "width"))
    for student in found:
        arguments = ", ".join(f"{key}={value}" for key, value in student.model_args.items())
        weights = "yes" if student.has_pretrained else "no"
        figures = format_count(student.parameters), f"{student.image_size} px", str(student.width)
        table.add_row(student.name, student.kind, weights, arguments, *figures)
    show(table)
    if left_out:
        show("left out:", *(f"  {entry['name']}: {entry['reason']}" for entry in left_out))
