"""Images that cannot be read: named, counted, and refused above a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rrm_transfer.core.errors import UserError

_SHOWN = 10


class BrokenImages:
    """The images of a data set that turned out to be missing or damaged.

    Args:
        limit: How many are tolerated.
        warn: Told about each.
        option: Of the command line, that sets the limit.

    Attributes:
        limit: How many are tolerated.
        found: What is wrong, by where the image is.
    """

    def __init__(
        self,
        limit: int = 0,
        warn: Callable[[str], None] = lambda _: None,
        *,
        option: str = "--set data.max_broken",
    ) -> None:
        self.limit = limit
        self.found: dict[str, str] = {}
        self._warn = warn
        self._option = option

    def add(self, problems: Mapping[str, UserError]) -> None:
        """Counts images, each once.

        Args:
            problems: By where the image is.

        Raises:
            UserError: There are too many.
        """
        news = {where: error.what for where, error in problems.items() if where not in self.found}
        self.found |= news
        if len(self.found) > self.limit:
            self._refuse()
        for number, (where, what) in enumerate(news.items(), 1 + len(self.found) - len(news)):
            self._warn(f"{where}: {what} It is left out ({number} of {self.limit} allowed)")

    def _refuse(self) -> None:
        count = len(self.found)
        them = "it" if count == 1 else "them"
        lines = [f"{where}: {what}" for where, what in list(self.found.items())[:_SHOWN]]
        more = count - len(lines)
        raise UserError(
            f"{count:,} image{'s' * (count > 1)} cannot be read.",
            received="\n            ".join([*lines, *[f"and {more:,} more"] * bool(more)]),
            allowed=f"{self.limit:,} ({self._option})" if self.limit else None,
            hint=f"mend or remove {them}, or {self._option}={count} to go on without {them}",
        )
