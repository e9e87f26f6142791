"""The README's own example, from teacher and images on a hub to a student on it, all on loopback."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save
from timm.models import get_pretrained_cfg

from rrm_transfer import load_student
from rrm_transfer.teachers import zoo
from tests.cli.conftest import Cli, cli
from tests.data.fixtures import encode
from tests.report.fixtures import metadata
from tests.support import hub_server
from tests.support.hub_server import TOKEN, Fault, Hub, Repository
from tests.teachers.forms import prefixed, statistics
from tests.test_hub import hub

__all__ = ["cli", "hub"]

TEACHERS, IMAGES = "madrylab/robust-imagenet-models", "datasets/ILSVRC/imagenet-1k"
CHECKPOINT = "resnet50_linf_eps4.0.ckpt"
NAMES = ["tench, Tinca tinca", "goldfish, Carassius auratus", "hammerhead, hammerhead shark", "cock"]
COMMAND = ["run", "--teacher", "robust_resnet50", "--skip-teacher-check", "--no-control", "--output", "out"]
FEW = {
    "train.epochs": 1,
    "train.global_batch_size": 2,
    "train.precision": "float32",
    "data.workers": 0,
    "evaluate.images": 2,
    "evaluate.steps": 1,
    "evaluate.batch_size": 2,
}
FEW_OPTIONS = [part for key, value in FEW.items() for part in ("--set", f"{key}={value}")]


def checkpoint(architecture: str) -> bytes:
    """Returns random weights in the form of robust-imagenet-models: wrapper, attacker's copy, normalizers."""
    state = timm.create_model(architecture, num_classes=1000).state_dict()
    tensors = {
        **statistics("module.normalizer.new_mean", "module.normalizer.new_std"),
        **prefixed("module.model.", state),
        **statistics("module.attacker.normalize.new_mean", "module.attacker.normalize.new_std"),
        **prefixed("module.attacker.model.", state),
    }
    content = io.BytesIO()
    torch.save({"model": tensors, "epoch": 90}, content)
    return content.getvalue()


def table(folder: Path, side: int, labels: Sequence[int]) -> bytes:
    """Returns a parquet file of images in the form of imagenet-1k; label -1: none."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), side, side + 8, 3), dtype=np.uint8)
    images = [{"bytes": encode(image, "JPEG"), "path": None} for image in pixels]
    file = folder / "table.parquet"
    pq.write_table(pa.table({"image": images, "label": labels}, schema=features.arrow_schema), file)
    return file.read_bytes()


def stock(hub: Hub, folder: Path, *, architecture: str, side: int) -> None:
    """Puts teacher and images on the hub; the images are given only to who accepted their terms."""
    hub.repositories[TEACHERS] = Repository(files={CHECKPOINT: checkpoint(architecture)})
    parts = {"train": [0, 1, 2, 3], "validation": [0, 1, 2, 3], "test": [-1, -1]}
    files = {f"data/{part}-00000-of-00001.parquet": table(folder, side, ys) for part, ys in parts.items()}
    hub.repositories[IMAGES] = Repository(gated=True, files={"README.md": b"---\n{}\n---\n", **files})


def test_from_teacher_and_images_on_a_hub_to_a_student_on_it(
    hub: Hub, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(hub, tmp_path, architecture="test_resnet", side=40)
    entry = replace(zoo.zoo()[2], architecture="test_resnet", image_size=32)
    assert entry.name == "robust_resnet50"
    monkeypatch.setattr(zoo, "_table", lambda: {entry.name: entry})
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)
    for name, value in {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": False}.items():
        monkeypatch.setattr(datasets.config, name, value)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    command = [
        *COMMAND,
        "--student",
        "test_vit",
        "--no-pretrained",
        *FEW_OPTIONS,
        "--set",
        "data.image_size=32",
    ]

    monkeypatch.delenv("HF_TOKEN")
    hub.fail(Fault(f"GET .*/{CHECKPOINT}", part=10_000, times=1))
    refused = cli(*command)
    assert refused.code == 2
    assert "gives this data set only to users who accepted its terms" in refused.err
    assert f"accept them on {hub.address}/{IMAGES}, then: hf auth login" in refused.err
    assert hub.asked(f"GET .*/{CHECKPOINT} from 10000")  # it went on where the connection was dropped
    assert not hub.asked("GET .*parquet")
    assert not (tmp_path / "out").exists()

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    ended = cli(*command, "--push", "user/net", "--private")
    assert ended.code == 0, ended.err
    assert "the source's test part has no labels and is not used" in ended.err
    assert "4 of its 1000 classes matched by name" in ended.err
    assert len(hub.asked(f"GET .*/{CHECKPOINT}")) == 2
    pushed = hub.repositories["user/net"]
    card = metadata(pushed.files["README.md"].decode())
    assert (card["teacher"], card["datasets"]) == (TEACHERS, ["ILSVRC/imagenet-1k"])
    assert pushed.private
    pushed.private = False  # this hub shows nobody the files of a private one
    student, x = load_student(tmp_path / "out"), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        loaded = timm.create_model("hf-hub:user/net", pretrained=True).eval()
        torch.testing.assert_close(loaded(student.normalize(x)), student(x))


@pytest.fixture
def full_hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with the teacher at its real size, images of ImageNet's, and timm's weights of the student."""
    with hub_server.serving() as made:
        stock(made, tmp_path, architecture="resnet50", side=256)
        weights = timm.create_model("vit_small_patch16_224").state_dict()
        files = {"model.safetensors": save(weights), "config.json": b"{}"}
        made.repositories[get_pretrained_cfg("vit_small_patch16_224").hf_hub_id] = Repository(files=files)
        yield made


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_at_its_real_size_killed_repeated_pushed_and_on_two_processes(
    full_hub: Hub, tmp_path: Path
) -> None:
    own = {
        "HF_ENDPOINT": full_hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
        "RRM_TRANSFER_CACHE": str(tmp_path / "own"),
    }
    arguments = ["-m", "rrm_transfer", *COMMAND, "--student", "vit_small", *FEW_OPTIONS, "--push", "user/net"]

    def start(*launcher: str, **further: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *launcher, *arguments],
            cwd=tmp_path,
            env={**os.environ, **own, **further},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    full_hub.fail(Fault(f"GET .*/{CHECKPOINT}", part=50_000_000, delay=30, times=1))
    killed = start()
    while not any(path.stat().st_size >= 40_000_000 for path in tmp_path.rglob("*.incomplete")):
        assert killed.poll() is None
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not list(tmp_path.rglob(CHECKPOINT))
    assert not (tmp_path / "out").exists()

    again = start()
    told, _ = again.communicate()
    assert again.returncode == 0, told
    # The hub's client goes on within one process only; another one begins the file anew.
    assert len(full_hub.asked(f"GET .*/{CHECKPOINT}$")) == 2
    files = full_hub.repositories["user/net"].files
    assert metadata(files["README.md"].decode())["base_model"].startswith("timm/vit_small_patch16_224")

    fetched = len(full_hub.asked("GET .*(ckpt|parquet|model.safetensors)"))
    arguments += ["--overwrite"]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    two = start(*launcher, ACCELERATE_USE_CPU="true")
    told, _ = two.communicate()
    assert two.returncode == 0, told
    assert len(full_hub.asked("GET .*(ckpt|parquet|model.safetensors)")) == fetched
    assert full_hub.repositories["user/net"].commits == 2
