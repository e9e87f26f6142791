"""A file that one process at a time may hold."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import IO


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
        """Takes the lock; if another process has it, ``holder`` then tells which one."""
        while True:
            file = self._path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    file.seek(0)
                    self.holder = file.read() or "a run that is just starting"
                return False
            if self._is_still(file):
                break
            file.close()
        # Workers that outlive a killed run must not keep its lock.
        os.register_at_fork(after_in_child=file.close)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _is_still(self, file: IO[str]) -> bool:
        """Tells whether nobody removed the file between its opening and its locking."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False
