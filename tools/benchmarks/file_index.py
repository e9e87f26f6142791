"""What it takes to find the images of a large folder: the first process lists them, another one is told.

Run:
    python -m tools.benchmarks.file_index --files 100000
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.shards import png
from rrm_transfer.data.sources import find_index, find_parts

CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), files)
        sent = _in_another_process("lists", lambda: find_index(folder))
        print(f"index: {len(sent) / files:.0f} bytes a file")
        _in_another_process("is told", lambda: _told(folder, sent))


def _told(folder: str, sent: bytes) -> int:
    return len(find_parts(folder, BrokenImages(), index=pickle.loads(sent)).images)


def _write(folder: Path, files: int) -> None:
    """Writes images of two sizes, which are not held in memory."""
    import numpy as np

    pictures = [png(np.zeros((3, side, side), dtype=np.uint8)) for side in (2, 3)]
    for number in range(files):
        file = folder / "train" / f"n{number % CLASSES:08}" / f"n{number % CLASSES:08}_{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pictures[number % 2])


def _in_another_process(does: str, work: Callable[[], object]) -> bytes:
    """Returns what ``work`` returns in a process of its own, pickled; prints what it took."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_measured, args=(does, work, theirs))
    process.start()
    result = ours.recv_bytes()
    process.join()
    return result


def _measured(does: str, work: Callable[[], object], connection: Connection) -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before, begun = _peak(), time.process_time()
    result = work()
    seconds = time.process_time() - begun
    print(f"{does}: {seconds:.2f} s of the processor, {(_peak() - before) / 1024:.0f} MB", flush=True)
    connection.send_bytes(pickle.dumps(result))


def _peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main()
