"""A lock names its holder, ends with it, and is held by one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

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
    assert path.read_text().startswith(f"process {os.getpid()} on")
    lock.release()


def test_a_file_that_its_owner_just_removed_is_not_enough(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lock = FileLock(path)
    with path.open("a+") as orphan:
        path.unlink()
        fcntl.flock(orphan, fcntl.LOCK_EX)
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
