"""Weights files that are made to hurt are refused in words, whoever reads them, in little time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.weights.containers import state_dict_in
from rrm_transfer.core.weights.reading import read_file
from rrm_transfer.core.weights.state_dict import read_state_dict
from rrm_transfer.students import build_student, load_student
from rrm_transfer.teachers.checkpoints import open_checkpoint
from rrm_transfer.teachers.convert import convert
from tests.core.weights.hostile import HOSTILE
from tests.support import tiny

LARGE = 200 << 10
"""Kilobytes above what the process has taken before."""
SECONDS = 1.0
"""Of the processor; a read takes a hundredth."""
PIECE = 8 << 20
"""Bytes for which a file may take that much more."""


@pytest.fixture(scope="module", autouse=True)
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Reads a plain file, so that what reading imports is not counted with the first hostile one."""
    path = tmp_path_factory.mktemp("plain") / "weights.pt"
    torch.save({"weight": torch.zeros(2, 2)}, path)
    open_checkpoint(path)


@contextmanager
def in_bounds(path: Path) -> Iterator[None]:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    except OSError:
        pytest.skip("this system does not tell the peak of a part of a process")
    before, begun = _peak(), time.process_time()
    yield
    taken = time.process_time() - begun
    held = path.stat().st_blocks * 512  # of a sparse file little
    assert taken < SECONDS * (1 + held / PIECE)
    assert _peak() - before < LARGE


def _peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_words(name: str, tmp_path: Path) -> None:
    write, words = HOSTILE[name]
    path = tmp_path / "weights.pt"
    write(path)
    with in_bounds(path), pytest.raises(UserError, match=words) as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 1000
    assert "weights_only" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize("name", ["hexbomb", "two archives", "a sparse archive", "float8"])
def test_the_weights_of_a_student_are_read_by_the_same_reader(name: str, tmp_path: Path) -> None:
    write, words = HOSTILE[name]
    write(tmp_path / "weights.pt")
    with pytest.raises(UserError, match=words):
        build_student(
            "test_resnet", num_classes=3, channels=3, image_size=32, weights=tmp_path / "weights.pt"
        )


def test_the_weights_of_a_run_are_read_by_the_same_reader(tmp_path: Path) -> None:
    folder = tiny.write_teacher(tmp_path / "student", steps=0)
    (folder / "model.safetensors").unlink()
    write, words = HOSTILE["hexbomb"]
    write(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=words):
        load_student(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "a tar that begins as a zip", "a tar that begins nearly as a zip", "a FIFO",
        "a tar that begins as the older form", "diamonds of dicts", "a dict that holds itself",
        "dicts in dicts", "a storage beyond its file, older form",
    ],
)  # fmt: skip
def test_conversion_extracts_nothing_and_ends(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    HOSTILE[name][0](path)
    with pytest.raises(UserError) as caught:
        convert(path, tmp_path / "out.safetensors")
    assert "seconds" not in caught.value.what  # it ended by itself
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pt"]


def test_conversion_does_not_write_what_a_file_has_no_room_for(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(1 << 32)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="claim more numbers"):
        convert(tmp_path / "weights.pt", tmp_path / "out.safetensors")


def test_the_usual_things_in_checkpoints_are_read(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    content = {
        "model": network.state_dict(), "optimizer": optimizer.state_dict(), "bytes": b"abc", "set": {1, 2},
        "type": torch.float32, "size": torch.Size([1]), "complex": 3j, "rng": torch.get_rng_state(),
        "own": torch.nn.Parameter(torch.zeros(2)), "view": torch.zeros(4)[1:3], "empty": torch.zeros(0, 3),
        "turned": torch.zeros(2, 3).T, "shared": network[0].weight, "number": torch.tensor(3),
    }  # fmt: skip
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert state_dict_in(read_file(path), source=path).path == ("model",)
        assert read_state_dict(path).tensors.keys() == network.state_dict().keys()


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8])
def test_integers_are_no_weights(kind: torch.dtype, tmp_path: Path) -> None:
    student = build_student("test_resnet", num_classes=3, channels=3, image_size=32)
    state = {name: value.to(kind) for name, value in student.model.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="of another kind"):
        build_student(
            "test_resnet", num_classes=3, channels=3, image_size=32, weights=tmp_path / "weights.pt"
        )
