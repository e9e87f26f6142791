"""timm's architectures by name, size and the images that they can take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import timm

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.students.description import StudentDescription, describe_student


@dataclass(frozen=True)
class Candidate:
    """An architecture that a pattern matches.

    Attributes:
        name: Exact timm name.
        description: As a student; None where it cannot be one.
        problem: Why not.
    """

    name: str
    description: StudentDescription | None
    problem: str | None = None


def matching_names(pattern: str) -> list[str]:
    """Returns timm's architectures whose names match a pattern such as ``vit_*``.

    Raises:
        UserError: None does.
    """
    names: list[str] = timm.list_models(pattern.lower())
    if not names:
        bare = "".join(character for character in pattern if character.isalnum() or character == "_")
        hint = did_you_mean(bare, timm.list_models())
        raise UserError("No architecture of timm has such a name.", received=pattern, hint=hint)
    return names


def candidates(names: Sequence[str], *, image_size: int | None, channels: int) -> Iterator[Candidate]:
    """Plans each architecture as a student, on the meta device: shapes without weights.

    Args:
        names: Exact timm names.
        image_size: Side of the images in pixels; None: each architecture's own.
        channels: Of the images.
    """
    for name in names:
        try:
            yield Candidate(name, describe_student(name, channels=channels, image_size=image_size))
        except UserError as problem:
            yield Candidate(name, None, problem.what)
