"""A file that one process at a time may hold."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from rrm_transfer.core.errors import UserError

_HAS_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})


class FileLock:
    """A lock of the operating system's, which ends with the process that holds it and so is never stale.

    Args:
        path: The file, which exists while the lock is held and names its holder; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self.holder = ""

    def take(self) -> bool:
        """Takes the lock; if another process has it, ``holder`` then tells which one.

        Raises:
            UserError: The file system has no locks.
        """
        while True:
            file = self._path.open("a+", encoding="utf-8")
            if not self._is_locked(file):
                with file:
                    file.seek(1)
                    self.holder = file.read() or "a run that is just starting"
                return False
            if self._is_still(file):
                break
            file.close()
        if hasattr(os, "register_at_fork"):  # elsewhere nothing inherits an open file
            # Workers that outlive a killed run must not keep its lock.
            os.register_at_fork(after_in_child=file.close)
        file.truncate(0)
        # Windows lets nobody else read the first byte, which is what it locks.
        file.write(f" process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self._file is None:
            return
        with suppress(PermissionError):  # Windows removes no open file
            self._path.unlink(missing_ok=True)
        self._file.close()
        self._file = None

    def _is_locked(self, file: IO[str]) -> bool:
        """Locks an open file, if nobody else has."""
        try:
            return lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            file.close()
            if error.errno not in _HAS_NO_LOCKS:
                raise
            raise UserError(
                "The file system cannot lock files, so two runs could write to the same folder.",
                received=f"{self._path.parent}: {error.strerror}",
                hint="a folder on another file system, by --output or, for the cache, RRM_TRANSFER_CACHE",
            ) from error

    def _is_still(self, file: IO[str]) -> bool:
        """Tells whether nobody removed the file between its opening and its locking."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False


@contextmanager
def hold(path: Path, *, taken: str) -> Iterator[None]:
    """Keeps an output folder, which is created where it is missing, to this process for the block.

    Args:
        path: The lock's file in it.
        taken: What a user is told where another process has it.

    Raises:
        UserError: Another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    if not lock.take():
        raise UserError(
            taken,
            received=f"{path.parent}, held by {lock.holder}",
            hint="another --output, or wait for it",
        )
    try:
        yield
    finally:
        lock.release()
