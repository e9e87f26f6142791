from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from rrm_transfer.core.errors import UserError
from rrm_transfer.data import hub_source
from rrm_transfer.data.hub_source import HubName, parse_hub_name
from rrm_transfer.data.sources import load_dataset_by_name
from tests.data.test_parquet_source import write

GIGABYTE = 10**9


class Hub:
    """Stands for the hub: answers about access, and hands out local parquet files as a data set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.access_problem: type[Exception] | None = None
        self.build_problem: Exception | None = None
        self.files = {
            "train": str(write(folder / "train.parquet")),
            "validation": str(write(folder / "validation.parquet", 6)),
        }
        self.size: Any = 1000
        self.requested: tuple[str, str | None, str | None] | None = None
        self._folder = folder
        self._builder = datasets.load_dataset_builder
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_source, "hub_answers", lambda: True)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(datasets, "load_dataset_builder", self._load)

    def auth_check(self, repo: str, *, repo_type: str) -> None:
        assert repo_type == "dataset"
        if self.access_problem is not None:
            raise self.access_problem.__new__(self.access_problem)

    def dataset_info(self, repo: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(size=self.size), SimpleNamespace(size=None)])

    def _load(self, repo: str, config: str | None, *, revision: str | None) -> Any:
        self.requested = (repo, config, revision)
        if self.build_problem is not None:
            raise self.build_problem
        return self._builder("parquet", data_files=self.files, cache_dir=str(self._folder / "cache"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    return Hub(monkeypatch, tmp_path)


def test_names_have_a_configuration_and_a_revision() -> None:
    assert parse_hub_name("cifar10") == HubName("cifar10", None, None)
    name = parse_hub_name("user/some-name:plain@refs/convert/parquet")
    assert name == HubName("user/some-name", "plain", "refs/convert/parquet")
    assert name.short == "some-name"
    assert parse_hub_name("a/b/c") is None
    assert parse_hub_name("a b") is None


def test_a_data_set_comes_with_classes_and_origin(hub: Hub) -> None:
    data = load_dataset_by_name("user/birds:plain@v1")
    assert hub.requested == ("user/birds", "plain", "v1")
    assert (data.name, data.source) == ("birds", "hub: user/birds:plain@v1")
    assert (len(data.train), len(data.test), data.class_names) == (10, 6, ("ant", "bee"))
    assert data.notes == ("the source's validation part is the test part",)


def test_parts_of_other_names_are_left_out_and_told(hub: Hub, tmp_path: Path) -> None:
    hub.files["extra"] = hub.files["train"]
    assert "parts left out: extra" in load_dataset_by_name("user/birds").notes
    hub.files = {"extra": hub.files["train"]}
    with pytest.raises(UserError, match="no part that can be trained or tested on"):
        load_dataset_by_name("user/birds")


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (GatedRepoError, "accepted its terms"),
        (RepositoryNotFoundError, "neither here nor on the hub"),
        (RevisionNotFoundError, "no such revision"),
    ],
)
def test_what_the_hub_does_not_give_is_told(hub: Hub, problem: type[Exception], message: str) -> None:
    hub.access_problem = problem
    with pytest.raises(UserError, match=message):
        load_dataset_by_name("user/birds@v2")


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (RuntimeError("Dataset scripts are no longer supported, but found birds.py"), "is a script"),
        (ValueError("Config name is missing.\nPlease pick one: ['a', 'b']"), "several configurations"),
        (datasets.exceptions.DataFilesNotFoundError("No data files"), "cannot be had"),
        (ConnectionError("Couldn't reach 'user/birds' on the Hub"), "cannot be had"),
        (datasets.exceptions.DatasetGenerationError("broken"), "cannot be read: broken"),
        # What the library makes of information that is HTML, a list, of wrong types, or deep.
        (json.JSONDecodeError("Expecting value", "<html>", 0), "cannot be had.*: Expecting value"),
        (TypeError("string indices must be integers"), "cannot be had"),
        (KeyError("features"), "cannot be had"),
        (RecursionError("maximum recursion depth exceeded"), "cannot be had"),
    ],
)
def test_what_the_library_cannot_load_is_told(hub: Hub, problem: Exception, message: str) -> None:
    hub.build_problem = problem
    with pytest.raises(UserError, match=message):
        load_dataset_by_name("user/birds")


@pytest.mark.parametrize("size", ["large", -1, True, 1e30, None, {}])
def test_a_size_that_is_none_is_not_counted(hub: Hub, size: Any) -> None:
    hub.size = size
    assert len(load_dataset_by_name("user/birds").train) == 10


def test_a_huge_data_set_is_refused_before_anything_is_downloaded(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.size = 150 * GIGABYTE
    usage = SimpleNamespace(free=200 * GIGABYTE)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="does not fit on the disk") as caught:
        load_dataset_by_name("user/birds")
    assert "300.0 GB needed, 200.0 GB free" in str(caught.value.received)
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def _forbidden(seconds: float) -> None:
    raise AssertionError(f"waited for {seconds} s to try again")


def test_offline_mode_answers_at_once_and_names_the_local_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(time, "sleep", _forbidden)
    with pytest.raises(UserError, match="Unknown data set: no file or folder of that name is here") as caught:
        load_dataset_by_name("fashon-mnist-mini")
    assert "the hub is not asked offline" in caught.value.what
    assert caught.value.hint is not None
    assert "did you mean fashion-mnist-mini?" in caught.value.hint
    assert "folder of images by class" in caught.value.hint


def test_a_dead_hub_is_noticed_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", _forbidden)
    with pytest.raises(UserError, match=r"Unknown data set: .* and the hub cannot be reached") as caught:
        load_dataset_by_name("user/birds")
    assert "fashion-mnist-mini" in str(caught.value.hint)
