"""What processes do together, and how long they wait for each other."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator

from rrm_transfer.core.errors import UserError
from rrm_transfer.runtime import processes
from rrm_transfer.runtime.memory import release_memory
from rrm_transfer.runtime.numerics import without_tf32
from rrm_transfer.runtime.processes import Runtime


def test_steps_are_waited_for_in_minutes_and_downloads_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Recorder(Accelerator):  # type: ignore[misc]  # accelerate has no annotations
        def __init__(self, **settings: Any) -> None:
            given.update(settings)
            super().__init__(**settings)

    monkeypatch.setattr(processes, "Accelerator", Recorder)
    Runtime()
    (timeout,) = (each.timeout for each in given["kwargs_handlers"] if hasattr(each, "timeout"))
    assert timeout == timedelta(minutes=30)

    monkeypatch.setattr(dist, "new_group", lambda **settings: settings)
    group: Any = processes._patient_group("these")
    assert group == {"backend": "gloo", "timeout": timedelta(days=1)}


def test_a_seed_gives_the_numbers_of_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without looking at accelerators that are not there, whose seeding formats a stack each time."""
    torch.manual_seed(5)
    expected = torch.rand(4)

    def forbidden(*_: object) -> None:
        raise AssertionError("looked at another device")

    monkeypatch.setattr(torch.xpu, "manual_seed_all", forbidden)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", forbidden)
    Runtime().seed(5)
    assert torch.equal(torch.rand(4), expected)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_VISIBLE_SECONDS", 0.2)
    monkeypatch.setattr(processes, "_LOOK_SECONDS", 0.01)


@pytest.mark.usefixtures("hasty")
def test_a_file_that_is_seen_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "late"
    monkeypatch.setattr(time, "sleep", lambda _: file.touch())
    Runtime().check_visible([file], hint="share it")


@pytest.mark.usefixtures("hasty")
def test_a_file_that_is_not_seen_is_told(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    files = [tmp_path / "here", tmp_path / "absent", tmp_path / "no-folder" / "absent"]
    with pytest.raises(UserError, match="does not see the files") as caught:
        Runtime().check_visible(files, hint="share it")
    assert (caught.value.received, caught.value.hint) == (tmp_path / "absent", "share it")


def test_memory_is_released_where_torch_can() -> None:
    release_memory(torch.device("cpu"))


@pytest.fixture
def tf32() -> Any:
    """Leaves torch's settings as they were."""
    cudnn: Any = torch.backends.cudnn
    places: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    if not hasattr(places[0], "fp32_precision"):
        pytest.skip("needs torch 2.9")
    before = [place.fp32_precision for place in places]
    yield places
    for place, value in zip(places, before, strict=True):
        place.fp32_precision = value


def test_tf32_is_off_whatever_settings_the_program_uses(tf32: list[Any]) -> None:
    def precisions() -> list[str]:
        return [place.fp32_precision for place in tf32]

    for place in tf32:  # the newer settings, after which torch refuses to read the older
        place.fp32_precision = "tf32"
    with without_tf32():
        assert precisions() == ["ieee"] * 3
    assert precisions() == ["tf32"] * 3

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # the older
    with without_tf32():
        assert precisions() == ["ieee"] * 3
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
