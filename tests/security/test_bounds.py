"""What a few kilobytes make a command do before it refuses them: little time, and little memory."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.core.weights.hostile import HOSTILE
from tests.data.fixtures import idx_bytes, noise
from tests.report import fixtures
from tests.support.command import costing

SECONDS = 1.0
"""Of the processor, once the command line is imported: others may keep the machine busy."""
MEGABYTES = 200.0
SMALL = 1 << 16
"""Bytes of an input, but for those whose point is their length."""

Write = Callable[[Path, Path], None]
"""Writes something hostile into a folder; the other is a teacher's."""


def _weights(name: str) -> Write:
    return lambda folder, _: HOSTILE[name][0](folder / "weights.pt")


def _text(name: str, text: str) -> Write:
    def write(folder: Path, _: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return write


def _teacher(**changes: Any) -> Write:
    def write(folder: Path, teacher: Path) -> None:
        copied = Path(shutil.copytree(teacher, folder / "teacher"))
        config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
        config["model_args"] |= changes
        (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return write


def _empty_rows(folder: Path, _: Path) -> None:
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    rows = 1 << 22
    with pq.ParquetWriter(folder / "train.parquet", schema) as writer:
        writer.write_table(pa.table([pa.nulls(rows, kind) for kind in schema.types], schema))


def _one_picture(folder: Path, _: Path) -> None:
    vast = pa.array([b"\x89PNG" + bytes(1 << 27)], pa.binary())
    table = pa.table({"image": vast, "label": [0]})
    pq.write_table(table, folder / "train.parquet", compression="zstd")


def _packed_pixels(folder: Path, _: Path) -> None:
    header = bytes((0, 0, 8, 3)) + struct.pack(">3I", 1 << 20, 1 << 9, 1)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(1 << 24), 9))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(noise(4)))


def _run(name: str, content: str) -> Write:
    def write(folder: Path, _: Path) -> None:
        run = fixtures.write_run(folder / "run")
        fixtures.metrics().write(run.metrics)
        (run.path / name).write_text(content, encoding="utf-8")

    return write


_HUGE = "9" * 4000
_EVALUATED = ["evaluate", "TEACHER", "--attack", "none", "--dataset", "."]
CASES: dict[str, tuple[Write, list[str]]] = {
    "a seed of many digits": (_text("r.yaml", f"seed: {_HUGE}"), ["recipes", "validate", "r.yaml"]),
    "a radius of many digits": (_text("x", ""), [*_EVALUATED, "--eps", "1" * 50_000 + "x"]),
    "a deep student": (_text("x", ""), ["inspect", "--student", "test_vit", "--student-arg", "depth=99999"]),
    "a teacher of many layers": (_teacher(layers=[99_999] * 4), ["inspect", "teacher"]),
    "a pickle that doubles itself": (_weights("hexbomb"), ["inspect", "weights.pt"]),
    "a safetensors of names": (_weights("very many tensors"), ["inspect", "weights.pt"]),
    "rows of nothing": (_empty_rows, _EVALUATED),
    "a picture of zeros": (_one_picture, _EVALUATED),
    "pixels that unpack": (_packed_pixels, _EVALUATED),
    "a run of many digits": (_run("environment.json", f'{{"processes": {_HUGE}}}'), ["compare", "run"]),
}


@pytest.mark.skipif(sys.platform != "linux", reason="this system does not tell a process's peak")
@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_a_second_and_little_memory(case: str, tiny_teacher: Path, tmp_path: Path) -> None:
    write, words = CASES[case]
    write(tmp_path, tiny_teacher)
    if case != "a safetensors of names":
        assert all(path.stat().st_size < SMALL for path in tmp_path.glob("*.*"))
    ended, cost = costing(
        *(str(tiny_teacher) if word == "TEACHER" else word for word in words), folder=tmp_path
    )
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    assert cost.seconds < SECONDS
    assert cost.megabytes < MEGABYTES
