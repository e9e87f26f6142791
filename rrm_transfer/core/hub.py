"""Files of model hubs, or a clear answer within seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import sha256_of
from rrm_transfer.core.patience import patient
from rrm_transfer.core.stems import STOCK_WEIGHTS, weights_name

_SECONDS = 5.0
_COMMIT = "X-Repo-Commit"
_TAGS = (_COMMIT, "X-Linked-ETag", "ETag")
_PLAIN_TAG = re.compile(r'(W/)?"?[A-Za-z0-9][\w.+=-]{0,127}"?', re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hub_file(repo: str, filename: str, *, revision: str | None = None, hint: str | None = None) -> Path:
    """Returns a hub file's path in the local cache, downloading it when it is not there.

    Args:
        repo: ``user/name``.
        filename: Inside the repository.
        revision: A branch, tag or commit.
        hint: What else the user can do where the hub cannot be reached.

    Raises:
        UserError: The hub cannot be reached, or has no such file, or does not give it.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    name = f"{repo}/{filename}" + (f"@{revision}" if revision else "")
    if ".." in (revision or "").split("/"):
        raise UserError("Not a revision of the hub.", received=name)
    with explaining_hub(name, hint=hint):
        cached = try_to_load_from_cache(repo, filename, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    require_hub(name, hint=hint)
    with explaining_hub(name, hint=hint), plain_answers():
        file = Path(hf_hub_download(repo, filename, revision=revision))
    _require_announced(file, name)
    return file


@contextmanager
def plain_answers() -> Iterator[None]:
    """Refuses answers of a hub whose tags would lead out of its cache, where the client makes paths of them.

    Raises:
        UserError: There was one, or one that did not come; see ``patient``.
    """
    from huggingface_hub import get_session

    hooks = get_session().event_hooks["response"]
    hooks.append(_require_plain_tags)
    try:
        with patient():
            yield
    finally:
        hooks.remove(_require_plain_tags)


def _require_plain_tags(response: Any) -> None:
    """Checks an answer that says which file and commit it is about; others are not kept.

    Raises:
        UserError: A tag is no plain name.
    """
    if _COMMIT not in response.headers:
        return
    for header in _TAGS:
        tag = response.headers.get(header)
        if tag is not None and not _PLAIN_TAG.fullmatch(tag):
            raise UserError(
                "The hub's answer is none: a tag in it is no plain name.",
                received=f"{response.request.url.host}: {header}: {tag[:200]}",
                hint="look whom HF_ENDPOINT names",
            )


def _require_announced(file: Path, name: str) -> None:
    """Compares a download with the SHA-256 under which the cache keeps it, where it has one.

    Raises:
        UserError: They differ; the download is removed.
    """
    kept = file.resolve()
    if _SHA256.fullmatch(kept.name) and sha256_of(kept) != kept.name:
        kept.unlink()
        file.unlink(missing_ok=True)
        raise UserError(
            "The hub sent other bytes than it announced.",
            received=name,
            allowed=f"sha256 {kept.name}",
            hint="try again; if it happens again, do not trust the endpoint",
        )


@contextmanager
def explaining_hub(name: str, *, hint: str | None = None) -> Iterator[None]:
    """Turns whatever a download in the block may meet into one message; the client has retried by then.

    Args:
        name: What is wanted, for the message.
        hint: What else the user can do.

    Raises:
        UserError: The hub cannot be reached, or has no such file, or does not give it.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except UserError:
        raise
    except HFValidationError:
        raise UserError("Not a repository of the hub.", received=name, allowed="user/name") from None
    except GatedRepoError:
        raise UserError(
            "The hub gives this file only to users who accepted its terms.",
            received=name,
            hint="accept them on the repository's page, then: hf auth login",
        ) from None
    except LocalEntryNotFoundError as problem:
        cause = problem.__cause__
        if cause is None:
            raise _unreachable(name, hint) from problem
        raise _broke_off(name, hint, cause) from problem
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
        raise UserError("The hub has no such file.", received=name, hint=hint) from None
    except Exception as problem:  # whatever the HTTP client raises: the answer to the user is the same
        if isinstance(problem, OSError) and problem.errno is not None:
            raise  # of this machine's storage, not of the hub
        raise _broke_off(name, hint, problem) from problem


def hub_model(name: str, *, hint: str | None = None) -> tuple[Path, Path]:
    """Returns the local paths of a timm model's ``config.json`` and weights.

    Args:
        name: ``user/name`` or ``user/name@revision``.
        hint: What else the user can do where the hub cannot be reached.

    Raises:
        UserError: The hub cannot be reached, or holds no such model.
    """
    repo, _, revision = name.partition("@")
    config = hub_file(repo, "config.json", revision=revision or None, hint=hint)
    try:
        weights = weights_name(parse_json(config.read_text(encoding="utf-8")))
    except (ValueError, AttributeError):
        weights = STOCK_WEIGHTS  # what is wrong with the configuration is told by those who read it
    return config, hub_file(repo, weights, revision=revision or None, hint=hint)


def require_hub(name: str, *, hint: str | None = None) -> None:
    """Asks the hub for a sign of life; its client would retry a dead one for half a minute per file.

    Args:
        name: What is wanted, for the message.
        hint: What else the user can do.

    Raises:
        UserError: It cannot be reached, or offline mode is set.
    """
    if not hub_answers():
        raise _unreachable(name, hint)


def hub_answers() -> bool:
    """Tells whether the hub can be reached and offline mode is not set."""
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return False
    try:
        with patient(_SECONDS):
            get_session().head(constants.ENDPOINT, timeout=_SECONDS, follow_redirects=False)
    except Exception:  # whatever the client raises, also where HF_ENDPOINT is no plain address
        return False
    return True


def is_connection_problem(error: BaseException) -> bool:
    """Tells whether the hub's HTTP client, whichever its version brings, raised ``error``."""
    clients = {"httpx", "httpx2", "requests"}
    return any(kind.__module__.partition(".")[0] in clients for kind in type(error).__mro__)


def _broke_off(name: str, hint: str | None, problem: BaseException) -> UserError:
    reason = str(problem).partition("\n")[0] or type(problem).__name__
    return UserError(f"The download broke off: {reason}", received=name, hint=hint)


def _unreachable(name: str, hint: str | None) -> UserError:
    return UserError(
        "The model hub cannot be reached and the file is not in the local cache.", received=name, hint=hint
    )
