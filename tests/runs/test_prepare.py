"""Images prepared once: what is written, what a resumed session keeps, and how it is read."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.files import sha256_of
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.encoded import decode
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import ImageSet, LazyImages, MemoryImages
from rrm_transfer.data.loader import TrainingLoader
from rrm_transfer.data.shards import write_shard
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.runs import prepare as preparation
from rrm_transfer.runs.prepare import Prepared, prepare
from tests.cli.conftest import Cli, cli  # noqa: F401  # a fixture
from tests.data.fixtures import encode, write_class_folders
from tests.support import tiny

SIDE = 24


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHARD", 4)
    monkeypatch.setattr(preparation, "decoding_workers", lambda cores: 0)


def smooth(height: int, width: int, seed: int) -> Any:
    """Returns an image that survives JPEG."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def write_photos(folder: Path) -> Path:
    """Writes 2 x 6 training and 2 x 2 test images of many sizes; the third of each class is small."""
    for part, count in (("train", 6), ("test", 2)):
        for number, name in enumerate(("ant", "bee")):
            (folder / part / name).mkdir(parents=True)
            for image in range(count):
                size = (16, 20) if image == 2 else (40 + image, 60 - image)
                kind = ("PNG", "JPEG")[image % 2]
                content = encode(smooth(*size, seed=10 * number + image), kind)
                (folder / part / name / f"{image}.{kind.lower()}").write_bytes(content)
    return folder


def small(photos: Path, **options: Any) -> Prepared:
    return prepare(str(photos), photos.parent / "small", side=SIDE, **options)


def pixels(images: ImageSet, position: int) -> Any:
    if isinstance(images, MemoryImages):
        return images.pixels[position].numpy()
    assert isinstance(images, LazyImages)
    return decode(images.encoded, position, channels=images.channels)


def break_image(photos: Path) -> None:
    file = photos / "train" / "ant" / "1.jpeg"
    file.write_bytes(file.read_bytes()[:-300])


def test_the_same_images_in_the_same_order_but_small(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    made = small(photos)
    assert (made.images, made.classes, made.shards, made.kept) == ({"train": 12, "test": 4}, 2, 4, 0)
    before, after = (load_dataset_by_name(str(tmp_path / name)) for name in ("photos", "small"))
    assert after.class_names == before.class_names == ("ant", "bee")
    for was, now in ((before.train, after.train), (before.test, after.test)):
        assert now.labels.tolist() == was.labels.tolist()
        for position in range(len(was)):
            original, kept = pixels(was, position), pixels(now, position)
            if min(original.shape[1:]) <= SIDE:
                np.testing.assert_array_equal(kept, original)
                continue
            assert min(kept.shape[1:]) == SIDE
            resized = Image.fromarray(original.transpose(1, 2, 0)).resize(
                kept.shape[:0:-1], Image.Resampling.BILINEAR
            )
            assert np.abs(np.asarray(resized).transpose(2, 0, 1).astype(int) - kept).mean() < 4
    assert not (tmp_path / "small.unfinished").exists()
    facts = json.loads((tmp_path / "small" / "prepared.json").read_text())
    assert (facts["source"], facts["side"], facts["jpeg_quality"]) == (str(photos), SIDE, 95)


def test_other_tools_read_it(tmp_path: Path) -> None:
    small(write_photos(tmp_path / "photos"))
    found = datasets.load_dataset(str(tmp_path / "small"), cache_dir=str(tmp_path / "cache"))
    assert {part: len(rows) for part, rows in found.items()} == {"train": 12, "test": 4}
    assert found["train"].features["label"].names == ["ant", "bee"]
    assert min(found["train"][0]["image"].size) == SIDE
    row = pq.read_table(tmp_path / "small" / "train-00000-of-00003.parquet")["image"][0].as_py()
    assert Image.open(io.BytesIO(row["bytes"])).format == "JPEG"


def test_a_set_that_is_not_divided_has_the_same_test_part(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_class_folders(photos, count=10)
    assert small(photos).images == {"train": 20}
    before, after = (load_dataset_by_name(str(tmp_path / name)) for name in ("photos", "small"))
    assert after.test.index.tolist() == before.test.index.tolist()
    assert torch.equal(after.test.pixels, before.test.pixels)  # type: ignore[attr-defined]  # PNG, not enlarged


def test_a_stopped_session_is_resumed_between_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos")
    whole = prepare(str(photos), tmp_path / "whole", side=SIDE)

    def killed(file: Path, *arguments: Any, **options: Any) -> None:
        if "train-00002" in file.name:
            file.with_name(".rrm-transfer-0123456789abcdef.partial.parquet").write_bytes(b"half")
            signal.raise_signal(signal.SIGTERM)
        write_shard(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "write_shard", killed)
        with pytest.raises(Interrupted, match="--resume continues it"):
            small(photos)
    assert not (tmp_path / "small").exists()
    with pytest.raises(UserError, match="was begun") as caught:
        small(photos)
    assert caught.value.hint == "--resume to continue it, or --overwrite to replace it"
    with pytest.raises(UserError, match="side: was 24, is now 20"):
        prepare(str(photos), tmp_path / "small", side=20, resume=True)
    first = tmp_path / "small.unfinished" / "train-00000-of-00003.parquet"
    content = bytearray(first.read_bytes())
    content[len(content) // 3] ^= 1
    first.write_bytes(content)
    made = small(photos, resume=True)
    assert (made.kept, made.shards, made.images) == (1, whole.shards, whole.images)
    names = [sorted(file.name for file in (tmp_path / name).iterdir()) for name in ("small", "whole")]
    assert names[0] == names[1]
    for name in names[0]:
        assert sha256_of(tmp_path / "small" / name) == sha256_of(tmp_path / "whole" / name)


def test_a_finished_folder_is_checked_or_replaced_and_nothing_else(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    small(photos)
    assert small(photos, resume=True).kept == 4
    (tmp_path / "small" / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="1 of 4 shards are missing or damaged"):
        small(photos, resume=True)
    assert small(photos, overwrite=True).kept == 0
    (tmp_path / "small" / "notes.txt").touch()
    with pytest.raises(UserError, match="holds something else"):
        small(photos, overwrite=True)
    for output in (photos, photos / "train" / "small", tmp_path):
        with pytest.raises(UserError, match="within the"):
            prepare(str(photos), output, side=SIDE, overwrite=True)


def test_broken_images_are_left_out_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos")
    break_image(photos)
    with pytest.raises(UserError, match="1 image cannot be read") as caught:
        small(photos)
    assert caught.value.hint == "mend or remove it, or --max-broken=1 to go on without it"
    made = small(photos, max_broken=1, resume=True)
    assert made.images == {"train": 11, "test": 4}
    [where] = made.broken
    assert where.endswith("ant/1.jpeg")
    assert load_dataset_by_name(str(tmp_path / "small")).train.labels.tolist() == [0] * 5 + [1] * 6
    assert small(photos, max_broken=1, resume=True).broken == made.broken
    with pytest.raises(UserError, match="1 image cannot be read"):
        small(photos, resume=True)


def test_processes_that_decode_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos")
    break_image(photos)
    made = []
    for workers in (0, 1):
        monkeypatch.setattr(preparation, "decoding_workers", lambda cores, count=workers: count)
        prepare(str(photos), tmp_path / str(workers), side=SIDE, max_broken=1)
        made.append([sha256_of(file) for file in sorted((tmp_path / str(workers)).iterdir())])
    assert made[0] == made[1]


def test_the_command(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    write_photos(tmp_path / "photos")
    told = cli("prepare", "photos", "--output", "small", "--side", "24", "--json", "--quiet")
    assert (told.code, told.err) == (0, "")
    assert told.document["images"] == {"train": 12, "test": 4}
    refused = cli("prepare", "photos", "--output", "small")
    assert refused.code == 2
    assert "prepared already" in refused.err


def test_training_reads_it_as_it_reads_the_source(tmp_path: Path) -> None:
    small(write_photos(tmp_path / "photos"))
    loader = TrainingLoader(
        load_dataset_by_name(str(tmp_path / "small")).train,
        fit=Fit("crop", 16),
        augmentation=Augmentation(random_resized_crop=(0.5, 1.0)),
        global_batch_size=12,
        seed=0,
        device="cpu",
    )
    [batch] = loader.epoch(0)
    assert batch.x.shape == (12, 3, 16, 16)
    assert sorted(batch.y.tolist()) == [0] * 6 + [1] * 6


@pytest.mark.slow
def test_a_run_on_what_was_prepared(
    cli: Cli,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small(write_photos(tmp_path / "photos"))
    tiny.limit_steps(monkeypatch, 1)
    few = ["train.global_batch_size=4", "control.enabled=false"]
    cropped = "data.augmentation={random_resized_crop: [0.5, 1.0]}"
    sets = [part for setting in (*tiny.settings(epochs=1), *few, cropped) for part in ("--set", setting)]
    words = ("--student", "test_resnet", "--dataset", "small", "--objective", "natural", "--output", "run")
    ended = cli("teach", *words, *sets, "--quiet", "--json")
    assert ended.code == 0, ended.err
    assert (tmp_path / "run" / "student" / "model.safetensors").is_file()
