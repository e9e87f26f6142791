"""Part 3: 224 px: how fast images are decoded, by how many processes, and whether that feeds a network."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from rrm_transfer.api import teach
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.images import DataSet
from rrm_transfer.data.loader import TrainingLoader, evaluation_batches
from rrm_transfer.data.sources import load_dataset_by_name
from tools.gpu_rehearsal.findings import Findings, Row
from tools.gpu_rehearsal.subjects import Subjects, write_pictures

_CROP = Augmentation(random_resized_crop=(0.08, 1.0), flip=True)
_DEFAULT = Augmentation(random_resized_crop=(0.08, 1.0), flip=True, jitter=0.1, lighting=0.05)
_COPIES = 20
"""Of each image to train on, as links to one file: an epoch lasts, and nothing is copied."""


def rehearse(subjects: Subjects, findings: Findings, *, imagenet: Path | None) -> None:
    """Measures decoding alone, then with a network.

    Args:
        subjects: With what.
        findings: Filled.
        imagenet: A folder with ``validation.parquet``; None: pictures that are made.
    """
    size, batch = (32, 8) if subjects.small else (224, 256)
    folder = subjects.folder / "pictures"
    if imagenet is None:
        write_pictures(folder, 16 if subjects.small else 2000, size + 32, classes=4, kind="jpg")
    else:
        write_links(imagenet / "validation.parquet", folder)
    data = load_dataset_by_name(str(folder))
    workers = (0, 1) if subjects.small else (1, 2, 4, 8, 14)
    for count, (name, augmentation) in findings.in_time(
        product(workers, (("crop and flip", _CROP), ("the table's", _DEFAULT)))
    ):
        with findings.row("loader", workers=count, augmentation=name) as row:
            row.update(_decoded(subjects, data, augmentation, size=size, batch=batch, workers=count))
    with findings.row("evaluation batch, decoded here") as row:
        few = data.test.select(range(min(250, len(data.test))))
        fit = choose_fit(few.size, size)
        row["seconds"] = _seconds(
            subjects,
            lambda: next(
                evaluation_batches(few, fit=fit, batch_size=len(few), device=subjects.runtime.device)
            ),
        )
    if not subjects.on_gpu:
        return
    for together in findings.in_time((1, 64, 256)):
        with findings.row("decoded on the GPU", together=together) as row:
            row["images_per_s"] = _decoded_on_the_gpu(subjects, folder, together)
    for count in findings.in_time((2, 8, 14)):
        with findings.row("training", network="resnet50", workers=count) as row:
            row.update(_trained(subjects, folder, size=size, batch=batch, workers=count))


def write_links(parquet: Path, folder: Path) -> None:
    """Writes the images of a parquet file in ten classes, those to train on several times."""
    for number, value in enumerate(pq.read_table(parquet, columns=["image"]).column("image").to_pylist()):
        content: bytes = value["bytes"] if isinstance(value, dict) else value
        for part, copies in (("train", _COPIES), ("test", 1)):
            place = folder / part / f"class{number % 10}"
            place.mkdir(parents=True, exist_ok=True)
            first = place / f"{number:04d}_00.jpg"
            first.write_bytes(content)
            for copy in range(1, copies):
                os.link(first, place / f"{number:04d}_{copy:02d}.jpg")


def _decoded(
    subjects: Subjects, data: DataSet, augmentation: Augmentation, *, size: int, batch: int, workers: int
) -> Row:
    loader = TrainingLoader(
        data.train,
        fit=choose_fit(data.train.size, size),
        augmentation=augmentation,
        global_batch_size=batch,
        seed=0,
        device=subjects.runtime.device,
        workers=workers,
    )
    batches = (made for epoch in range(10**6) for made in loader.epoch(epoch))
    first = _seconds(subjects, lambda: next(batches))
    for _ in range(2 * workers):  # what was decoded while the first was waited for
        next(batches)
    begun, made, time_for_it = time.perf_counter(), 0, 0.0 if subjects.small else 5.0
    while not made or time.perf_counter() - begun < time_for_it:
        next(batches)
        made += batch
    subjects.runtime.synchronise()
    return {"images_per_s": round(made / (time.perf_counter() - begun)), "first_batch_s": first}


def _seconds(subjects: Subjects, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    subjects.runtime.synchronise()
    return round(time.perf_counter() - begun, 3)


def _decoded_on_the_gpu(subjects: Subjects, folder: Path, together: int) -> int:
    files = [read_file(str(path)) for path in sorted(folder.glob("test/*/*.jpg"))[:256]]

    def decode() -> None:
        for start in range(0, len(files), together):
            decode_jpeg(files[start : start + together], device="cuda", mode=ImageReadMode.RGB)

    decode()
    return round(len(files) / statistics.median(_seconds(subjects, decode) for _ in range(5)))


def _trained(subjects: Subjects, folder: Path, *, size: int, batch: int, workers: int) -> Row:
    torch.cuda.empty_cache()
    output = subjects.folder / f"resnet50-{workers}"
    run = teach(
        student="resnet50",
        dataset=folder,
        objective="natural",
        epochs=2,
        output=output,
        settings={
            "data.image_size": size,
            "data.workers": workers,
            "train.global_batch_size": batch,
            "evaluate.images": 50,
            "evaluate.steps": 1,
            "evaluate.batch_size": 50,
            "control.enabled": False,
        },
    )
    timing = run.metrics.timing["student"]
    events = map(json.loads, (output / "log.jsonl").read_text(encoding="utf-8").splitlines())
    waited = [event["data_share"] for event in events if event["event"] == "step"]
    return {
        "images_per_s": timing["images_per_s"],
        "train_s": timing["train_seconds"],
        "data_share": waited[-1],
    }
