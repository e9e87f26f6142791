from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import sha256_of
from rrm_transfer.core.pixels import parse_statistics
from rrm_transfer.core.quantities import format_count
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.networks.building import Blueprint, build_model, is_known
from rrm_transfer.teachers.zoo import EMBEDDED, ZooEntry, zoo, zoo_entry, zoo_origin
from tests.teachers.fixtures import pixels, tiny


@pytest.mark.parametrize("entry", zoo(), ids=lambda entry: entry.name)
def test_every_entry_is_usable(entry: ZooEntry) -> None:
    assert entry.norm in ("Linf", "L2")
    assert entry.eps > 0
    assert entry.dataset
    assert entry.citation
    assert entry.architecture is None or is_known(entry.architecture)
    assert entry.normalization is None or parse_statistics(entry.normalization)
    assert (entry.clean is None) == (entry.robust is None) == (entry.attack is None)
    assert entry.clean is None or 0 < (entry.robust or 0) < entry.clean < 100
    assert zoo_entry(entry.name) is entry
    assert entry.got == "by hand" or entry.file is not None
    assert entry.got != "by hand" or " on GitHub" in entry.source or entry.source.startswith("https://")


@pytest.mark.slow
@pytest.mark.parametrize("entry", zoo(), ids=lambda entry: entry.name)
def test_the_number_of_parameters_is_the_networks(entry: ZooEntry) -> None:
    if entry.architecture is None:
        count = sum(p.numel() for p in load_teacher(entry.name, channels=1, image_size=32).parameters())
    else:
        classes = {"ILSVRC/imagenet-1k": 1000, "uoft-cs/cifar100": 100}.get(entry.dataset, 10)
        with torch.device("meta"):
            network = build_model(Blueprint(entry.architecture, {"num_classes": classes, **entry.args}))
        count = sum(parameter.numel() for parameter in network.parameters())
    assert format_count(entry.parameters) == format_count(count)


def test_what_is_fetched_by_hand_is_told_with_page_file_and_what_to_type_then() -> None:
    with pytest.raises(UserError) as caught:
        load_teacher("Sehwag2021Proxy_R18", channels=3, image_size=32)
    told = str(caught.value)
    assert "Sehwag2021Proxy_R18.pt from https://drive.google.com/file/d/1-Zgo" in told
    assert "Sehwag2021Proxy_R18 --teacher-weights Sehwag2021Proxy_R18.pt" in told


def test_a_file_at_a_web_address_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.pth"
    torch.save(tiny().state_dict(), file)
    asked = []

    def web_file(address: str, *, hint: str) -> Path:
        asked.append(address)
        assert "ARES_ConvNext_Base_AT --teacher-weights ARES_ConvNext_Base_AT.pth" in hint
        return file

    entry = zoo_entry("ARES_ConvNext_Base_AT")
    assert entry is not None
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path))
    monkeypatch.setattr("rrm_transfer.teachers.zoo.web_file", web_file)
    assert zoo_origin(entry).file == file
    assert asked == [
        "https://ml.cs.tsinghua.edu.cn/~xiaoyang/aresbench/ckpt-imagenet/ARES_ConvNext_Base_AT.pth"
    ]


def test_robust_resnet50_is_what_its_name_says() -> None:
    entry = zoo_entry("robust_resnet50")
    assert entry is not None
    assert (entry.architecture, entry.dataset) == ("resnet50", "ILSVRC/imagenet-1k")
    assert (entry.norm, entry.eps) == ("Linf", 4 / 255)


def test_unknown_teacher_lists_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean robust_resnet50"):
        load_teacher("robust_resnet5O", channels=3, image_size=224)


def test_without_network_the_file_and_the_alternative_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        load_teacher("robust_resnet50", channels=3, image_size=224)
    assert "resnet50_linf_eps4.0.ckpt" in str(caught.value)
    assert "robust_resnet50 --teacher-weights resnet50_linf_eps4.0.ckpt" in str(caught.value)


def test_dead_hub_answers_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached"):
        load_teacher("robust_resnet50", channels=3, image_size=224)


def test_first_download_is_recorded_and_enforced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.pt"
    torch.save(tiny().state_dict(), file)
    entry = replace(zoo()[1], name="tiny", architecture="test_resnet")
    monkeypatch.delenv("RRM_TRANSFER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("rrm_transfer.teachers.zoo.hub_file", lambda *_args, **_kwargs: file)
    monkeypatch.setattr("rrm_transfer.teachers.zoo._table", lambda: {"tiny": entry})
    assert zoo_origin(entry).sha256 == sha256_of(file)
    record = tmp_path / "cache" / "rrm-transfer" / "zoo-sha256.json"
    assert json.loads(record.read_text()) == {"tiny": sha256_of(file)}
    assert load_teacher("tiny", channels=3, image_size=32).provenance["sha256"] == sha256_of(file)
    torch.save({"other": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="not those that were recorded"):
        load_teacher("tiny", channels=3, image_size=32)


@pytest.mark.skipif(not (EMBEDDED / "fashion_mnist").is_dir(), reason="the embedded teacher is not there")
def test_embedded_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = load_teacher("fashion_mnist_linf", channels=1, image_size=32)
    assert (teacher.num_classes, teacher.channels, teacher.image_size) == (10, 1, 32)
    assert teacher(pixels(channels=1)).features.shape == (2, teacher.width)
    copy = tmp_path / "fashion_mnist"
    copy.mkdir()
    for file in (EMBEDDED / "fashion_mnist").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "SHA256").write_text(f"{'0' * 64}  model.safetensors\n")
    monkeypatch.setattr("rrm_transfer.teachers.zoo.EMBEDDED", tmp_path)
    with pytest.raises(UserError, match="not those that were recorded"):
        load_teacher("fashion_mnist_linf", channels=1, image_size=32)
