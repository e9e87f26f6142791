"""Data sets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from rrm_transfer.data.sources import load_dataset_by_name
from tests.data.fixtures import encode, idx_bytes, noise
from tools.fuzz.damage import damaged
from tools.fuzz.target import Target, written


def _idx_folder(parts: dict[str, bytes], folder: Path) -> object:
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    return load_dataset_by_name(str(folder))


def _idx_folders() -> st.SearchStrategy[dict[str, bytes]]:
    import gzip

    images, labels = idx_bytes(noise(8, 5, 5)), idx_bytes((np.arange(8) % 2).astype(np.uint8))
    vast = bytes((0, 0, 8, 3)) + b"\xff" * 12
    files = {
        f"{part}-{kind}-ubyte{end}": damaged(*(gzip.compress(c, mtime=0) if end else c for c in contents))
        for part in ("train", "t10k")
        for kind, contents in (("images-idx3", (images, vast)), ("labels-idx1", (labels,)))
        for end in ("", ".gz")
    }
    names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    return st.fixed_dictionaries(
        {name: files[name] for name in names}, optional={k: v for k, v in files.items() if k not in names}
    )


def _image_bytes() -> st.SearchStrategy[bytes]:
    kinds = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
    return damaged(*(encode(noise(6, 7, 3), kind) for kind in kinds), encode(noise(6, 7)))


def _table(rows: list[tuple[Any, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    images = pa.array(
        [image for image, _ in rows], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    labels = pa.array([label for _, label in rows], pa.int64())
    pq.write_table(pa.table({"image": images, "label": labels}), sink)
    return bytes(sink.getvalue())


def _tables() -> st.SearchStrategy[bytes]:
    whole = encode(noise(4, 4, 3))
    cells = st.fixed_dictionaries(
        {"bytes": st.none() | st.just(whole) | _image_bytes(), "path": st.none() | st.text(max_size=8)}
    )
    labels = st.integers(0, 1) | st.none() | st.sampled_from([-1, 7, 2**40, 2**63 - 1])
    table = _table([({"bytes": whole, "path": "a.png"}, number % 2) for number in range(8)])
    rows = st.lists(st.tuples(cells, labels), max_size=8).map(_table)
    return damaged(table) | rows


def _dataset(path: Path) -> object:
    data = load_dataset_by_name(str(path))
    return data.description, data.train.fingerprint


def _images(files: list[bytes], folder: Path) -> object:
    for number, content in enumerate(files):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        (place / f"{number}.png").write_bytes(content)
    return _dataset(folder)


def _named_folders(names: dict[str, list[str]], folder: Path) -> object:
    image = encode(noise(4, 4, 3))
    for name, files in names.items():
        (folder / name).mkdir(exist_ok=True)
        for file in files:
            (folder / name / file).write_bytes(image)
    return _dataset(folder)


def _folder_names() -> st.SearchStrategy[dict[str, list[str]]]:
    safe = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
    name = st.text(safe, min_size=1, max_size=20).filter(lambda text: text not in (".", ".."))
    markup = st.sampled_from(
        ["<script>", "[red]", "{{ 7 * 7 }}", "\x1b[2J", "train", "Test", "val", ".hidden"]
    )
    bytes_ = st.binary(min_size=1, max_size=20).filter(lambda name: not {0, ord("/")} & {*name})
    name |= bytes_.map(os.fsdecode).filter(lambda text: text not in (".", ".."))
    file = st.sampled_from(["a.png", "b.PNG", "c.txt", "[bold].png"]) | name.map(lambda text: f"{text}.png")
    return st.dictionaries(name | markup, st.lists(file, max_size=4), max_size=5)


TARGETS = {
    "idx": Target(_idx_folders, _idx_folder),
    "parquet": Target(_tables, written("train.parquet", _dataset)),
    "images": Target(lambda: st.lists(_image_bytes(), min_size=4, max_size=8), _images),
    "folders": Target(_folder_names, _named_folders),
}
