"""The one class for a mistake that the user can mend, and the end of a run that was asked to stop."""

from __future__ import annotations

from collections.abc import Iterable

from rrm_transfer.core.printing import presentable, shortened


class UserError(Exception):
    """A mistake in the input: what is wrong, what was received, what is allowed, what to do next.

    The command line prints it as one message and exits with code 2; from Python it is an ordinary
    exception. Anything else that escapes is a bug in this package.

    Attributes:
        what: One sentence that names the problem.
        received: The offending value, as the user wrote it.
        allowed: The accepted values or form.
        hint: The next command or change that mends it.
    """

    def __init__(
        self,
        what: str,
        *,
        received: object = None,
        allowed: str | Iterable[str] | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.received = received
        self.allowed = allowed if allowed is None or isinstance(allowed, str) else ", ".join(allowed)
        self.hint = hint
        super().__init__(str(self))

    @property
    def in_a_line(self) -> str:
        """The message without what was received, for a list of problems."""
        allowed = f" Allowed: {self.allowed}" if self.allowed else ""
        return f"{self.what}{allowed}" + (f" ({self.hint})" if self.hint else "")

    def __str__(self) -> str:
        lines = [self.what]
        if self.received is not None:
            lines.append(f"  received: {shortened(self.received)}")
        if self.allowed:
            lines.append(f"  allowed:  {self.allowed}")
        if self.hint:
            lines.append(f"  next:     {self.hint}")
        return presentable("\n".join(lines))


class RecipeError(UserError):
    """Every problem of a recipe at once, each with its dotted path.

    Attributes:
        problems: ``(dotted path, message)`` pairs.
    """

    def __init__(self, problems: list[tuple[str, str]], *, hint: str | None = None) -> None:
        self.problems = problems
        count = len(problems)
        listing = "\n".join(f"  {path}: {message}" for path, message in problems)
        super().__init__(
            f"The recipe has {count} problem{'s' if count != 1 else ''}:\n{listing}",
            hint=hint or "rrm-transfer recipes validate FILE checks a recipe without running it",
        )


class Interrupted(BaseException):
    """A run was asked to stop, and its state is saved.

    Like ``KeyboardInterrupt`` no ``Exception``: what handles any error of a library must not swallow it.
    """
