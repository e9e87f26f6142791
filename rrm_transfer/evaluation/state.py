"""What an evaluation has found out so far, so that an interrupted one continues."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrm_transfer.core.documents import differences, parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import write_text

SCHEMA = 1


@dataclass(frozen=True)
class Found:
    """The result of one stage on one batch.

    Attributes:
        kept: One character per image in the batch's order: 1 survived, 0 lost.
        seconds: That it took.
        sizes: Of the perturbations that lost an image, in pixel units, None for one that survived; where an
            attack seeks the smallest.
    """

    kept: str
    seconds: float
    sizes: list[float | None] | None = None

    @property
    def lost(self) -> int:
        return self.kept.count("0")


def _are_sizes(value: object) -> bool:
    return value is None or (
        isinstance(value, list) and all(size is None or isinstance(size, float) for size in value)
    )


@dataclass
class EvaluationState:
    """Results by batch, in a JSON file that is replaced whole after each of them.

    Attributes:
        path: The file; None: results live in memory only.
        conditions: Everything that the results depend on.
        found: Results by the name of attack, stage and batch.
    """

    path: Path | None = None
    conditions: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Found] = field(default_factory=dict)

    def load(self) -> None:
        """Reads what was found under the same conditions; nothing where there is no file.

        Raises:
            UserError: The file is damaged, or belongs to an evaluation under other conditions.
        """
        if self.path is None or not self.path.is_file():
            return
        try:
            content = parse_json(self.path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise ValueError("another schema")
            found = {key: Found(**entry) for key, entry in content["found"].items()}
            if not all(isinstance(entry.kept, str) and _are_sizes(entry.sizes) for entry in found.values()):
                raise TypeError("results that are none")
            before = dict(content["conditions"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"Not the state of an evaluation: {error!r}",
                received=self.path,
                hint="delete the file to start again",
            ) from None
        if changes := differences(before, json.loads(json.dumps(self.conditions))):
            raise UserError(
                "The interrupted evaluation was another one, so it cannot be resumed:\n"
                + "\n".join(f"  {change}" for change in changes),
                received=self.path,
                hint="the same command as before, or another --output; delete the file to start again",
            )
        self.found = found

    def check_absent(self) -> None:
        """Checks that a new evaluation would not throw away the results of an interrupted one.

        Raises:
            UserError: It would.
        """
        if self.path is not None and self.path.exists():
            raise UserError(
                "An interrupted evaluation is kept here.",
                received=self.path,
                hint="--resume to continue it; delete the file to start again",
            )

    def add(self, found: dict[str, Found]) -> None:
        """Remembers results."""
        self.found |= found
        if self.path is not None:
            content = {
                "schema": SCHEMA,
                "conditions": self.conditions,
                "found": {key: asdict(value) for key, value in self.found.items()},
            }
            write_text(self.path, json.dumps(content, indent=0) + "\n")

    def remove(self) -> None:
        """Removes the file, when the evaluation is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
