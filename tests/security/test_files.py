"""Archives, headers, pictures and documents that are made to hurt, and names that lead elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import resource
import struct
import subprocess
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rrm_transfer.core.documents import DEEPEST, parse_json, parse_yaml
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import hub_file
from rrm_transfer.core.stems import weights_name
from rrm_transfer.data.encoded import FORMATS
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.recipe.shelf import find_recipe
from rrm_transfer.runs.folder import free_path
from rrm_transfer.teachers.checkpoints import open_checkpoint
from rrm_transfer.teachers.loading import load_teacher
from tests.cli.conftest import Cli, cli
from tests.data.fixtures import encode, idx_bytes, noise

__all__ = ["cli"]

LARGE = 1 << 28
"""Bytes that a bomb would take, far above what reading its file needs."""


@pytest.fixture(autouse=True)
def _memory_stays() -> object:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < LARGE


# Checkpoints.


def _zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("net/data.pkl", bytes(LARGE))


def _overlapping(path: Path) -> None:
    """Writes entries whose tables say that all of them are the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("net/data.pkl", bytes(1000))
        for number in range(50):
            entry = zipfile.ZipInfo(f"net/data/{number}")
            entry.file_size = entry.compress_size = 1000
            entry.header_offset = entry.CRC = 0
            archive.filelist.append(entry)
    path.write_bytes(stream.getvalue())


def _outside(path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../escaped.txt", "x")
        archive.writestr("/tmp/rrm-transfer-escaped.txt", "x")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("../escaped.txt")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))


def _header(length: int, text: bytes = b"{}") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(length.to_bytes(8, "little") + text)

    return write


def _claims(shape: list[int], end: int) -> Callable[[Path], None]:
    header = json.dumps({"fc.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return _header(len(header), header)


def _repeated(path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1).expand(1 << 40)}, path)


def _hidden(path: Path) -> None:
    save_file({"fc.weight": torch.zeros(0, 1 << 40)}, path)


def _sparse(path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(4, 4).to_sparse()}, path)


def _index(path: Path) -> None:
    path.write_text(json.dumps({"weight_map": {"fc.weight": "../../../etc/passwd"}}), encoding="utf-8")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_zip_bomb, "unpacks to more than its size"),
        (_overlapping, "unpacks to more than its size"),
        (_tar, "tar archive"),
        (_header(1 << 62), "damaged"),
        (_header(200 << 20, b"{" + b" " * 100), "damaged"),
        (_claims([1 << 40], 1 << 42), "damaged"),
        (_claims([1 << 40], 0), "damaged"),
        (_repeated, "claims more numbers"),
        (_hidden, "claims more numbers"),
        (_sparse, "sparse"),
        (_index, "JSON text"),
    ],
)
def test_a_checkpoint_that_is_made_to_hurt_is_refused(
    write: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    write(tmp_path / "teacher.pth")
    with pytest.raises(UserError, match=words):
        open_checkpoint(tmp_path / "teacher.pth")


def test_what_an_archive_names_is_never_written(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    _outside(folder / "teacher.pth")
    with pytest.raises(UserError, match="not of one folder"):
        open_checkpoint(folder / "teacher.pth")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["teacher.pth"]
    assert not Path("/tmp/rrm-transfer-escaped.txt").exists()


def test_a_network_is_compared_before_it_takes_memory(tmp_path: Path) -> None:
    state = {"fc.weight": torch.zeros(1).expand(1 << 16, 64), "fc.bias": torch.zeros(2)}
    torch.save(state, tmp_path / "teacher.pth")
    with pytest.raises(UserError, match="do not fit"):
        load_teacher(
            str(tmp_path / "teacher.pth"), channels=3, image_size=32, arch="resnet18", normalization="none"
        )


def test_an_index_of_shards_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}', encoding="utf-8")
    _index(tmp_path / "model.safetensors.index.json")
    with pytest.raises(UserError, match="holds no model"):
        load_teacher(f"local-dir:{tmp_path}", channels=3, image_size=32)


# Names.


@pytest.mark.parametrize(
    "name", ["../pyproject", "../../etc/passwd", "/etc/passwd", "quickstart/../quickstart", ".."]
)
def test_a_recipes_name_stays_on_the_shelf(name: str, cli: Cli, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown recipe"):
        find_recipe(name)
    assert cli("recipes", "show", name).code == 2
    assert cli("recipes", "cp", name, "copy.yaml").code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_copied_recipe_replaces_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("x", encoding="utf-8")
    assert cli("recipes", "cp", "quickstart", "mine.yaml").code == 2
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "x"


@pytest.mark.parametrize("name", ["../../up", "a/../../b", "/etc"])
def test_a_run_folder_that_names_itself_stays_under_runs(name: str) -> None:
    path = free_path(name)
    assert path.parent == Path("runs")
    assert path.name not in (".", "..")


@pytest.mark.parametrize(
    "repo", ["../../etc", "user/../..", "a/b/c", "user/na me", "/etc/passwd", "https://x.example/a"]
)
def test_a_repository_of_the_hub_is_named_as_one(repo: str) -> None:
    with pytest.raises(UserError):
        hub_file(repo, "config.json")
    with pytest.raises(UserError):
        load_teacher(f"hf-hub:{repo}", channels=3, image_size=32)


def test_a_revision_does_not_lead_out_of_the_cache() -> None:
    with pytest.raises(UserError, match="Not a revision"):
        hub_file("user/model", "config.json", revision="refs/../../..")


@pytest.mark.parametrize("config", [{}, {"rrm": {"stem": "cifar"}}, {"weights": "../../.ssh/id"}])
def test_a_repositorys_configuration_does_not_name_files(config: dict[str, object]) -> None:
    assert weights_name(config) in ("model.safetensors", "rrm_student.safetensors")


# Data.


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_picture_that_unpacks_to_gigabytes_is_named_and_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "bomb.png").write_bytes(_png(60_000, 60_000))
        (tmp_path / name / "whole.png").write_bytes(encode(noise(8, 8, 3)))
    with pytest.raises(UserError, match="too large to be trusted") as caught:
        load_dataset_by_name(str(tmp_path))
    assert "bomb.png" in str(caught.value)


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    text = b"Comment\0\0" + zlib.compress(bytes(LARGE))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    whole = encode(noise(8, 8, 3))
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(whole[:33] + chunk + whole[33:])
    with pytest.raises(UserError, match="cannot be read"):
        load_dataset_by_name(str(tmp_path))


def _other_formats() -> dict[str, bytes]:
    pictures: dict[str, bytes] = {}
    Image.init()
    for kind in sorted(
        set(Image.SAVE) - {*FORMATS, "PDF", "WMF", "MPO", "DIB", "PALM", "GRIB", "BUFR", "HDF5", "IM"}
    ):
        stream = io.BytesIO()
        for mode in ("RGB", "1"):
            try:
                Image.new(mode, (32, 32)).save(stream, kind)
            except (OSError, ValueError):
                continue
            break
        pictures[kind] = stream.getvalue()
    assert len(pictures) > 10
    broken = {
        "a broken DDS": b"DDS " + struct.pack("<3I", 124, 0x1007, 32) + bytes(112),
        "a broken BLP": b"BLP1" + struct.pack("<4I", 7, 0, 32, 32) + bytes(2000),
        "a broken AVIF": bytes(4) + b"ftypavif" + bytes(40),
        "a WMF": b"\xd7\xcd\xc6\x9a" + bytes(100),
    }
    return pictures | broken


def _pair_of_classes(folder: Path, name: str, content: bytes) -> Path:
    for part in "ab":
        (folder / part).mkdir()
        (folder / part / name).write_bytes(content)
        (folder / part / "whole.png").write_bytes(encode(noise(8, 8, 3)))
    return folder


@pytest.mark.parametrize("kind", _other_formats())
@pytest.mark.parametrize("in_a_table", [False, True])
def test_a_picture_starts_no_program_and_only_the_usual_formats_are_read(
    kind: str, in_a_table: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for function in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, function, lambda *_, **__: pytest.fail("a program was started"))
    content = _other_formats()[kind]
    if in_a_table:
        pictures = [{"bytes": part, "path": None} for part in (content, encode(noise(8, 8, 3))) * 2]
        pq.write_table(pa.table({"image": pictures, "label": [0, 0, 1, 1]}), tmp_path / "train.parquet")
    else:
        _pair_of_classes(tmp_path, "picture.png", content)
    with pytest.raises(UserError, match="no format that is read here"):
        load_dataset_by_name(str(tmp_path))


def test_the_usual_formats_are_read(tmp_path: Path) -> None:
    pictures = [encode(noise(8, 8, 3), kind) for kind in FORMATS]
    pictures.append(b"P6 # a comment\n8\t8 #\n# another\n\n255\n" + bytes(192))
    table = [{"bytes": picture, "path": None} for picture in pictures * 2]
    labels = [0] * len(pictures) + [1] * len(pictures)
    pq.write_table(pa.table({"image": table, "label": labels}), tmp_path / "train.parquet")
    assert load_dataset_by_name(str(tmp_path)).train.size == (8, 8)


@pytest.mark.parametrize(
    "content",
    [
        b"P5 #" + bytes(1 << 26),
        b"P5 " + b"#\n" * (1 << 23) + b"8 8 255\n" + bytes(64),
        b"P5 8#" + b" " * (1 << 24),
        b"P6" + b" " * (1 << 24),
    ],
)
def test_a_header_without_an_end_takes_no_time(content: bytes, tmp_path: Path) -> None:
    begun = time.process_time()
    with pytest.raises(UserError, match="has no end"):
        load_dataset_by_name(str(_pair_of_classes(tmp_path, "picture.pgm", content)))
    assert time.process_time() - begun < 5  # it would be minutes


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**20, 2**10, 2**10), (60_000, 100, 100)])
@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_header_takes_no_memory(shape: tuple[int, ...], packed: bool, tmp_path: Path) -> None:
    content = bytes((0, 0, 8, 3)) + struct.pack(">3I", *shape) + bytes(100)
    name = "train-images-idx3-ubyte" + (".gz" if packed else "")
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(noise(4)))
    with pytest.raises(UserError, match="header announces"):
        load_dataset_by_name(str(tmp_path))


def test_a_parquet_file_with_a_vast_label_or_string_is_refused(tmp_path: Path) -> None:
    image = [{"bytes": encode(noise(4, 4, 3)), "path": None}] * 4
    pq.write_table(pa.table({"image": image, "label": [0, 1, 0, 2**40]}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="fewer training images than classes"):
        load_dataset_by_name(str(tmp_path))
    vast = [{"bytes": b"\x89PNG" + bytes(1 << 22), "path": "x" * (1 << 20)}] * 4
    pq.write_table(pa.table({"image": vast, "label": [0, 1, 0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_dataset_by_name(str(tmp_path))
    assert len(str(caught.value)) < 5000


# Documents.


def test_a_recipe_does_not_grow_while_it_is_read(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="aliases"):
        read_recipe(str(tmp_path / "laughs.yaml"))


@pytest.mark.parametrize("depth", [DEEPEST + 1, 20_000])
def test_documents_are_of_limited_depth(depth: int) -> None:
    for parse in (parse_json, parse_yaml):
        with pytest.raises(ValueError, match="nested"):
            parse("[" * depth + "]" * depth)


@pytest.mark.parametrize(
    "text", ["!!int ''", "!!bool x", "!!timestamp x", "2001-99-99", "a: b: c", "\x00", "9" * 5000]
)
def test_yaml_that_is_none_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_yaml(text)
