"""``rrm-transfer doctor``, and architectures found by ``inspect``."""

from __future__ import annotations

import pytest
import torch

from tests.cli.conftest import Cli


def test_doctor_tells_what_a_run_depends_on(cli: Cli) -> None:
    found = cli("doctor", "--json").document
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["devices"][-1]["kind"] == "cpu"
    assert isinstance(found["bf16_in_hardware"], bool)
    assert found["disk_free_gib"]["working folder"] > 0
    assert found["hub"]["offline mode"] is True
    assert found["hub"]["reachable"] is False
    out = cli("doctor").out
    for words in ("bf16 in hardware", "torch", "reachable no", "cores"):
        assert words in out


def test_architectures_are_found_by_name_size_and_input(cli: Cli) -> None:
    ended = cli("inspect", "--student", "test_v*", "--max-params", "0.4M", "--input", "32", "--json")
    found = ended.document["found"]
    names = [entry["name"] for entry in found]
    assert "test_vit" in names
    sizes = [entry["parameters"] for entry in found]
    assert sizes == sorted(sizes)
    assert max(sizes) <= 400_000
    assert {entry["image_size"] for entry in found} == {32}
    fewer = cli("inspect", "--student", "test_v*", "--max-params", "1K", "--json").document
    assert fewer["found"] == []


def test_what_cannot_take_the_images_is_noted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.list_models", lambda _: ["test_resnet", "inception_v3"])
    ended = cli("inspect", "--student", "*", "--input", "32")
    assert ended.code == 0
    assert "left out:" in ended.out
    assert "inception_v3: inception_v3 cannot take 32 px images" in ended.out
    assert ended.out.index("test_resnet") < ended.out.index("left out:")


def test_a_search_that_finds_no_name_is_a_mistake(cli: Cli) -> None:
    ended = cli("inspect", "--student", "vitt_smal*")
    assert ended.code == 2
    assert "no architecture" in ended.err.lower()
    assert cli("inspect", "--student", "vit_*", "--max-params", "ten").code == 2
    assert cli("inspect", "robust_resnet50", "--max-params", "1M").code == 2
