"""Devices have one name each, and constants are made once on each of them."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from rrm_transfer.core.devices import constant, indexed, spare_bytes
from rrm_transfer.runtime.processes import Runtime

GPU = torch.device("cuda", 3)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with GPUs, the fourth of which is the current one."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: GPU.index)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("given", "name"),
    [("cuda", "cuda:3"), ("cuda:1", "cuda:1"), ("cpu", "cpu"), ("cpu:0", "cpu"), ("meta", "meta")],
)
def test_a_device_is_called_as_its_tensors_call_it(given: str, name: str) -> None:
    assert str(indexed(given)) == name


def test_without_an_accelerator_a_name_stays() -> None:
    assert indexed("cpu") == torch.empty(0).device


@pytest.mark.usefixtures("gpu")
def test_a_process_knows_the_number_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one GPU accelerate calls it ``cuda``, and a resident tensor would never be found there again."""
    monkeypatch.setattr(Accelerator, "device", property(lambda _: torch.device("cuda")))
    assert Runtime().device == GPU


def test_a_constant_is_made_once_and_can_be_differentiated_through() -> None:
    values, device = (0.25, 0.5), torch.device("cpu")
    with torch.inference_mode():
        first = constant(values, device)
    assert constant(values, device) is first
    x = torch.ones(2, requires_grad=True)
    (x * first).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [0.25, 0.5]


def test_what_may_move_to_a_gpu_is_half_of_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 << 30, 80 << 30))
    assert spare_bytes(GPU) == 30 << 30
    assert spare_bytes(torch.device("cpu")) == 0
