"""What every part of a command works with, made once when the command begins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.runtime.progress import Narrator


@dataclass(frozen=True)
class Context:
    """The processes that a command runs on, and the voice in which it tells what happens.

    Attributes:
        runtime: Processes and devices.
        narrator: Silent on every process but the first.
    """

    runtime: Runtime
    narrator: Narrator

    @classmethod
    def begin(cls, narrator: Narrator | None = None) -> Context:
        """Starts a command on this process.

        Args:
            narrator: Heard from the first process; None: nobody is told anything.
        """
        runtime = Runtime()
        return cls(runtime, narrator if narrator is not None and runtime.is_main else Narrator())

    @property
    def silent(self) -> Context:
        """The same processes, for work within a task that shows its own progress."""
        return replace(self, narrator=Narrator())
