"""Files at plain web addresses, which no hub's client fetches: whole in the cache, or not there."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import cache_folder, write_text
from rrm_transfer.core.locks import FileLock

_SECONDS = 10.0
"""How long the other side may say nothing."""
_TRIES = 5
_CHUNK = 1 << 20
_PAUSE = 1.0


def web_file(address: str, *, hint: str | None = None) -> Path:
    """Returns the local copy of a file, downloading it when it is not there.

    What has come so far stands beside it under another name, with the tag of what it is a part of. A download
    that broke off, or whose process was killed, goes on from there as long as the other side has that file.

    Args:
        address: ``https://…/FILE``.
        hint: What else the user can do where it cannot be had.

    Raises:
        UserError: Offline mode is set, the address does not answer, or its answer is no file.
    """
    from huggingface_hub import constants

    place = cache_folder() / "downloads" / address.partition("://")[2].replace("/", "-")
    if place.is_file():
        return place
    if constants.is_offline_mode():
        raise UserError("Offline mode is set and the file is not in the cache.", received=address, hint=hint)
    place.parent.mkdir(parents=True, exist_ok=True)
    part, tag = (place.with_name(f"{place.name}.{end}") for end in ("part", "tag"))
    with _alone(place.with_name(f"{place.name}.lock")):
        if not place.is_file():
            _complete(address, part, tag, hint)
            part.replace(place)
            tag.unlink(missing_ok=True)
    return place


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process downloads the file."""
    lock = FileLock(path)
    while not lock.take():
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        lock.release()


def _complete(address: str, part: Path, tag: Path, hint: str | None) -> None:
    """Downloads what ``part`` lacks, going on after a broken connection as long as more comes.

    Raises:
        UserError: The address does not answer, or no more comes.
    """
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(address, part, tag, hint)
            return
        except (OSError, http.client.HTTPException, ValueError) as problem:
            if isinstance(problem, OSError) and _is_local(problem):
                raise
            status = problem.code if isinstance(problem, urllib.error.HTTPError) else None
            if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and tag.exists():
                tag.unlink()  # what is here is no part of what is there
                continue
            refused = status is not None and 400 <= status < 500
            tries = 0 if part.exists() and part.stat().st_size > before else tries + 1
            if refused or tries == _TRIES:
                raise UserError(
                    f"The download broke off: {str(problem) or type(problem).__name__}",
                    received=address,
                    hint=hint if refused else f"the same command again goes on where it broke off; or {hint}",
                ) from problem
        time.sleep(_PAUSE)


def _is_local(problem: OSError) -> bool:
    """Tells an error of this machine's storage from one of the network."""
    return problem.filename is not None and not isinstance(problem, urllib.error.URLError)


def _fetch(address: str, part: Path, tag: Path, hint: str | None) -> None:
    """Makes one request for what ``part`` lacks, and writes what comes."""
    request = urllib.request.Request(address)
    if part.exists() and tag.exists():
        request.add_header("Range", f"bytes={part.stat().st_size}-")
        request.add_header("If-Range", tag.read_text(encoding="utf-8"))  # another file by now comes whole
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        headers = answer.headers
        if address.startswith("https:") and not answer.url.startswith("https:"):
            raise UserError("The address leads to one without encryption.", received=answer.url, hint=hint)
        if headers.get_content_type() == "text/html":
            raise UserError("The address has a page, not the file.", received=address, hint=hint)
        going_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if not going_on:
            part.unlink(missing_ok=True)
            tag.unlink(missing_ok=True)
            if headers.get("ETag", "").startswith('"'):  # a weak tag does not tell the bytes
                write_text(tag, headers["ETag"])
        length = headers.get("Content-Length")
        with part.open("ab") as stream:
            total = None if length is None else stream.tell() + int(length)
            _copy(answer, stream, total, name=address.rpartition("/")[2])
            stream.flush()
            os.fsync(stream.fileno())
            if total is not None and stream.tell() < total:
                raise ConnectionError(f"{stream.tell():,} of {total:,} bytes came")


def _copy(answer: Any, stream: IO[bytes], total: int | None, *, name: str) -> None:
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    # In a terminal only, as the hub's client shows it.
    size = {"initial": stream.tell(), "total": total, "unit": "B", "unit_scale": True}
    with tqdm(desc=name, disable=None, **size) as bar:  # type: ignore[no-untyped-call]
        while chunk := answer.read(_CHUNK):
            stream.write(chunk)
            bar.update(len(chunk))
