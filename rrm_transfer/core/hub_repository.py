"""A repository of the model hub that is written to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import hub_answers
from rrm_transfer.core.patience import patient

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_LOGIN = "hf auth login, or set HF_TOKEN, with a token that may write"


class HubRepository:
    """A model repository of the hub, which need not exist yet.

    Args:
        name: ``user/name``.

    Raises:
        UserError: It is not of this form.
    """

    def __init__(self, name: str) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        try:
            validate_repo_id(name)
            valid = _NAME.fullmatch(name) is not None
        except HFValidationError:
            valid = False
        if not valid:
            raise UserError("Not a repository of the hub.", received=name, allowed="user/name")
        self.name = name

    def require_write_access(self, *, private: bool = False) -> None:
        """Checks the token and that it may write here; creates the repository where it is missing.

        Args:
            private: Of a repository that is created now.

        Raises:
            UserError: There is no token, it may not write here, or the hub does not answer.
        """
        from huggingface_hub import HfApi

        self._require_token()
        api = HfApi()
        with self._explained("create the repository"):
            api.create_repo(self.name, private=private or None, exist_ok=True)
        # An existing repository passes `create_repo` also where the token may only read it.
        with self._explained("check for write access"):
            api.auth_check(self.name, write=True)

    def require_read_access(self) -> None:
        """Checks the token and that the repository exists, which a pull request needs.

        Raises:
            UserError: There is no token, no such repository, or the hub does not answer.
        """
        from huggingface_hub import HfApi

        self._require_token()
        with self._explained("look for the repository"):
            HfApi().auth_check(self.name)

    def commit(self, files: Mapping[str, bytes | Path], *, message: str, create_pr: bool = False) -> str:
        """Writes files in one commit: all of them arrive or none.

        Files of equal content are not sent again, so an interrupted commit is simply repeated.

        Args:
            files: Contents by path in the repository; others that are there stay.
            message: Of the commit.
            create_pr: Propose the commit instead of making it.

        Returns:
            The address of the repository, or of the pull request.

        Raises:
            UserError: The hub refused it or could not be reached.
        """
        from huggingface_hub import CommitOperationAdd, HfApi

        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        with self._explained("push"):
            made = HfApi().create_commit(
                self.name, operations, commit_message=message, create_pr=create_pr or None
            )
        return str(made.pr_url if create_pr else made.repo_url)

    def _require_token(self) -> None:
        from huggingface_hub import HfApi, get_token

        if get_token() is None:
            raise UserError("There is no token for the model hub.", received=self.name, hint=_LOGIN)
        if not hub_answers():
            raise UserError(
                "The model hub cannot be reached.",
                received=self.name,
                hint="check the connection, HF_ENDPOINT and HF_HUB_OFFLINE",
            )
        with self._explained("check the token"):
            HfApi().whoami()

    @contextmanager
    def _explained(self, attempt: str) -> Iterator[None]:
        """Turns what the hub or the way to it says into one message, without the token."""
        try:
            with patient():
                yield
        except Exception as problem:  # the client wraps what happens to a single file in errors of any kind
            if isinstance(problem, OSError) and problem.errno is not None and not _answer(problem):
                raise  # of this machine's storage, not of the hub
            answer = _answer(problem)
            if answer is not None:
                raise self._refusal(attempt, *answer) from None
            cause = _first(problem)
            raise UserError(
                f"The connection to the model hub broke off (attempt to {attempt}).",
                received=f"{self.name}: {str(cause) or type(cause).__name__}",
                hint="the same command again; what has arrived is not sent twice",
            ) from None

    def _refusal(self, attempt: str, status: int, reason: str) -> UserError:
        what, hint = _STATUS.get(status, ("The model hub failed", "the same command again, later"))
        return UserError(
            f"{what} (attempt to {attempt}).",
            received=f"{self.name}: {status}" + (f", {reason}" if reason else ""),
            hint=hint,
        )


_STATUS = {
    400: ("The model hub does not accept this", "the reason is in its answer"),
    401: ("The model hub does not accept the token", _LOGIN),
    403: ("The token may not do this", "a token with write access to this user or organisation"),
    404: ("The model hub has no such repository for this token", "check the name and the token's access"),
    409: ("The repository has been changed meanwhile", "the same command again"),
    429: ("The model hub asks for fewer requests", "the same command again, later"),
}


def _first(problem: BaseException) -> BaseException:
    """Returns the first of an error and its causes."""
    return problem if problem.__cause__ is None else _first(problem.__cause__)


def _answer(problem: BaseException | None) -> tuple[int, str] | None:
    """Returns the status and the first line of what the hub said; None where it said nothing."""
    while problem is not None:
        status = getattr(getattr(problem, "response", None), "status_code", None)
        if status is not None:
            said = str(getattr(problem, "server_message", None) or "").strip()
            return status, said.partition("\n")[0]
        problem = problem.__cause__
    return None
