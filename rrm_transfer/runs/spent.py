"""What training a network took, as metrics.json tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rrm_transfer.training.passes import Passes


@dataclass(frozen=True)
class Spent:
    """What training a network took; None is what is not known.

    Attributes:
        passes: In units of plain training of the same network.
        seconds: Of the training loop.
        machine: On which those were measured.
        load: Programs that wanted to run there at the end of training, this one among them.
    """

    passes: Passes | None = None
    seconds: float | None = None
    machine: str | None = None
    load: float | None = None

    @classmethod
    def of(cls, timing: Mapping[str, Any], *, machine: str | None = None) -> Spent:
        """Reads the timing of one model.

        Whatever run computed the teacher's outputs that it read from a cache, all of that is its cost.

        Args:
            timing: Of metrics.json; may hold nothing.
            machine: Where the timing names none.
        """
        passes, seconds = timing.get("passes"), timing.get("train_seconds")
        cache = timing.get("teacher_features") or {}
        if seconds is not None:
            seconds += cache.get("build_seconds", 0) - cache.get("seconds", 0)
        return cls(
            passes=None if passes is None else Passes.from_json(passes),
            seconds=seconds,
            machine=timing.get("machine", machine),
            load=timing.get("load"),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "passes": None if self.passes is None else self.passes.to_json(),
            "train_seconds": self.seconds,
            "machine": self.machine,
            "load": self.load,
        }
