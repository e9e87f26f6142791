"""Files that are either whole or absent, and what of a user's may be replaced by them: the one place."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_path

from rrm_transfer.core.errors import UserError

_PARTIAL = re.compile(r"\.rrm-transfer-[0-9a-f]{16}\.partial(\.[^.]+)?")
_DEEPEST = 255
"""Folders in folders that are made."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def sha256_of(path: Path) -> str:
    """Returns the file's SHA-256 as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_partial(path: Path) -> bool:
    """Tells whether a name is one of those that nobody but this module gives: what a killed process left."""
    return _PARTIAL.fullmatch(path.name) is not None


def require_shallow(path: Path) -> None:
    """Refuses a path of more folders than Python makes, which it does by recursion.

    Raises:
        UserError: It is such a path.
    """
    if len(path.parts) > _DEEPEST:
        raise UserError(
            "The path is too deep.", received=path, allowed=f"{_DEEPEST} folders", hint="another name"
        )


def place_of(path: Path) -> Path:
    """Returns where a file of this name stands or will stand; links are followed.

    Raises:
        UserError: Something stands there that is no regular file: it is not renamed over.
    """
    require_shallow(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.is_symlink():
            return path
        kind = "a link that leads nowhere"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        kind = "a link that leads to itself"
    else:
        if stat.S_ISREG(mode):
            return Path(os.path.realpath(path))
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
    raise UserError(f"No file can be written here: this is {kind}.", received=path, hint="another name")


def require_writable(
    *paths: Path,
    overwrite: bool = False,
    ours: Callable[[Path], bool] = lambda path: False,
    hint: str = "another name, or --overwrite to replace it",
) -> None:
    """Checks, before the work begins, that files may be written where a user wants them.

    Args:
        paths: The files.
        overwrite: Whether the user gave leave to replace files.
        ours: Tells whether a regular file is one that this package wrote, which is replaced without leave.
        hint: What to do where a file would be lost.

    Raises:
        UserError: A file would be lost, or something stands there that is no regular file.
    """
    places = [(path, place_of(path)) for path in paths]
    lost = [str(path) for path, place in places if place.exists() and not ours(place)]
    if lost and not overwrite:
        raise UserError(
            "Another file stands here already." if len(lost) == 1 else "Other files stand here already.",
            received=", ".join(lost),
            hint=hint,
        )


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` and renames it into place when the block succeeds.

    Raises:
        UserError: Something stands there that is no regular file.
    """
    place = place_of(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = _partial_in(place.parent, path.suffix)
    temporary.touch(0o600, exist_ok=False)
    try:
        with _plain_system_errors():
            yield temporary
        _flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_files(folder: Path, *, owned: Iterable[str] = ()) -> Iterator[Path]:
    """Gives a temporary folder, whose files take the place of those in ``folder`` when the block succeeds.

    Whatever else is in ``folder`` stays there.

    Args:
        folder: Created where it is missing.
        owned: Names of files that are removed where the new ones do not have them.

    Raises:
        UserError: Something stands there that is no regular file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = _partial_in(folder)
    temporary.mkdir(0o700)
    try:
        with _plain_system_errors():
            yield temporary
        files = sorted(temporary.iterdir())
        stale = set(owned) - {file.name for file in files}
        # All are looked at before the first is replaced.
        places = [place_of(folder / file.name) for file in files]
        for file, place in zip(files, places, strict=True):
            _flush(file)
            file.replace(place)
        for name in stale:
            if (folder / name).is_file():
                (folder / name).unlink()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replacing_folder(path: Path, *, owned: Iterable[str] = ()) -> Iterator[Path]:
    """Gives a temporary folder beside ``path`` and renames it into place when the block succeeds.

    Where a folder stands there already, only files are replaced; see ``replacing_files``.

    Args:
        path: The folder.
        owned: As in ``replacing_files``.
    """
    if path.is_dir() and any(path.iterdir()):
        with replacing_files(path, owned=owned) as temporary:
            yield temporary
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _partial_in(path.parent)
    temporary.mkdir(0o700)
    try:
        with _plain_system_errors():
            yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        temporary.chmod(0o777 & ~_umask())
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_files(files: Iterable[Path], *, within: Path) -> None:
    """Removes files, and those of their folders below ``within`` that are empty then."""
    folders: set[Path] = set()
    for file in files:
        file.unlink(missing_ok=True)
        folders |= {folder for folder in file.parents if within in folder.parents}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with suppress(OSError):  # it holds something else
            folder.rmdir()


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left half-written in ``folder``."""
    for entry in folder.glob(".*"):
        if not is_partial(entry):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, whole or not at all."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cache_folder() -> Path:
    """Returns where what can be computed again is kept: ``$RRM_TRANSFER_CACHE``, else the user's cache."""
    named = os.environ.get("RRM_TRANSFER_CACHE")
    return Path(named).expanduser().absolute() if named else user_cache_path("rrm-transfer", appauthor=False)


@contextmanager
def _plain_system_errors() -> Iterator[None]:
    """Turns safetensors' report of the operating system's refusal into the ordinary ``OSError``."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _partial_in(folder: Path, suffix: str = "") -> Path:
    return folder / f".rrm-transfer-{secrets.token_hex(8)}.partial{suffix}"


def _flush(path: Path) -> None:
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
