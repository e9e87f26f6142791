"""A lock names its holder, ends with it, and is held by one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

import pytest
from filelock import lock_descriptor

from rrm_transfer.core import locks
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.locks import FileLock


def test_one_holds_it_and_is_named(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / ".lock"), FileLock(tmp_path / ".lock")
    assert first.take()
    assert not second.take()
    assert second.holder.startswith(f"process {os.getpid()} on")
    first.release()
    assert second.take()
    second.release()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_process_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("process 1 on another machine")
    lock = FileLock(path)
    assert lock.take()
    assert path.read_text().startswith(f" process {os.getpid()} on")
    lock.release()


def test_a_file_that_its_owner_just_removed_is_not_enough(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lock = FileLock(path)
    with path.open("a+") as orphan:
        path.unlink()
        assert lock_descriptor(orphan.fileno(), blocking=False)
        assert not lock._is_still(orphan)
        assert lock.take()
        lock.release()


def test_workers_do_not_keep_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / ".lock")
    reader, writer = os.pipe()
    assert lock.take()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)  # until the parent is done
        os._exit(0)
    lock.release()
    other = FileLock(tmp_path / ".lock")
    assert other.take()
    other.release()
    os.close(writer)
    os.waitpid(child, 0)
    os.close(reader)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "lock_descriptor", refuse)
    with pytest.raises(UserError, match="cannot lock files") as told:
        FileLock(tmp_path / ".lock").take()
    assert str(tmp_path) in str(told.value)
    assert "--output" in str(told.value)


def test_another_failure_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> bool:
        raise OSError(errno.EIO, "it broke")

    monkeypatch.setattr(locks, "lock_descriptor", fail)
    with pytest.raises(OSError, match="it broke"):
        FileLock(tmp_path / ".lock").take()


def test_as_on_windows_it_names_its_holder_and_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There nobody else reads the locked byte, no open file is removed, and no process forks."""

    class Opened:
        """A file whose first byte may not be read."""

        def __init__(self, file: IO[str]) -> None:
            self._file = file

        def read(self) -> str:
            assert self._file.tell() > 0
            return self._file.read()

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def __enter__(self) -> Opened:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "another process uses it")

    original = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: Opened(original(path, *a, **k)))
    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.delattr(os, "register_at_fork")
    first, second = FileLock(tmp_path / ".lock"), FileLock(tmp_path / ".lock")
    assert first.take()
    assert not second.take()
    assert second.holder.startswith(f"process {os.getpid()} on")
    first.release()
    assert second.take()
    second.release()
