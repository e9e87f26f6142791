"""Other forms of an exported student, each compared with the original before it is written."""

from __future__ import annotations

import logging
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_file, replacing_files, require_writable
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.exports.check import Kept, check_export
from rrm_transfer.exports.onnx import quantize, require_onnx, write_onnx
from rrm_transfer.exports.robustbench import adapter_files, write_adapter
from rrm_transfer.runs.finished import FinishedRun, read_handed_over
from rrm_transfer.runs.models import LoadedData, facts_about, load_data
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.interruption import StopRequest
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.students.loading import LoadedStudent, load_student

QUANTIZED = "onnx-int8"
_ONNX = ("onnx", QUANTIZED)
FORMATS = (*_ONNX, "torch-export", "robustbench")

EXPORT_TOLERANCE = 1e-4
"""Largest difference from the student's logits, relative to the largest of them, in float32."""

CALIBRATION = 256
"""Training images, a balanced sample, that tell a quantization the range of every activation."""
_CALIBRATION_BATCH = 32
CHECKED = 500
"""Test images on which `check_export` measures where no other number is asked for."""
_BATCH = 250
"""Of a check, as ``evaluate`` has it where nothing else is asked for."""

Compute = Callable[[Tensor], Tensor]
"""An exported network: its input, ``(B, C, H, W)``, to logits ``(B, classes)``, on the CPU."""


@dataclass(frozen=True)
class Exported:
    """A student in another form.

    Attributes:
        files: What was written.
        format: Which form.
        normalizes: Whether it takes pixels in [0, 1]; else images that are normalized already.
        error: Largest difference from the student's logits, relative to the largest of them.
        images: Test images that this was measured on.
        kept: Accuracies before and after, where they were asked for; see `check_export`.
    """

    files: tuple[Path, ...]
    format: str
    normalizes: bool
    error: float
    images: int
    kept: tuple[Kept, ...] = ()


def export(
    run: str | Path,
    file: str | Path,
    *,
    form: str,
    with_normalization: bool = False,
    check: bool = False,
    images: int = CHECKED,
    overwrite: bool = False,
    narrator: Narrator | None = None,
) -> Exported:
    """Writes a run's student in another form, with a batch size that is free.

    Args:
        run: Folder of a finished run, or its ``student-best``.
        file: Where to.
        form: Of ``FORMATS``; ``onnx-int8`` is quantized with ranges from training images, ``robustbench`` is
            a Python module with weights and claim beside it.
        with_normalization: Take pixels in [0, 1] instead of normalized images; ``robustbench`` always does.
        check: Whether accuracies are measured before and after, clean and at the run's threat model.
        images: How many test images those are measured on, a balanced sample.
        overwrite: Replaces files that stand there.
        narrator: Says what happens.

    Raises:
        UserError: A file would be lost, there is no finished run or no test image of it, a package or the
            run's data are missing, or what was made does not compute what the student does.
        Interrupted: It was asked to stop; where only the check was left, the files are there.
    """
    if form not in FORMATS:
        raise UserError("Unknown format.", received=form, allowed=FORMATS, hint=did_you_mean(form, FORMATS))
    if form in _ONNX:
        require_onnx()
    file, finished = Path(file), read_handed_over(Path(run))
    files = adapter_files(file, finished.folder) if form == "robustbench" else (file,)
    require_writable(*files, overwrite=overwrite)
    student, sample = load_student(finished.network).requires_grad_(False), sample_of(finished)
    context = Context.begin(narrator)
    with StopRequest():
        data = _data(finished.network, context) if check or form == QUANTIZED else None
        if form == "robustbench":
            made, compute = _robustbench(student, sample, finished, files)
        else:
            made, compute = _graph(student, sample, file, form, data, with_normalization=with_normalization)
        if not check or data is None:
            return made
        chosen = data.part("test").balanced(images, skip=finished.recipe.evaluate.skip)
        measurement = Measurement(data.image_size, _BATCH, finished.recipe.seed, context)
        kept = check_export(
            student, compute, chosen, measurement,
            threat=finished.threat, classes=data.images.num_classes, form=form,
        )  # fmt: skip
    return replace(made, kept=kept)


def _data(run: Path, context: Context) -> LoadedData:
    known = facts_about(str(run))
    return load_data(known.section(None), known, seed=known.seed, context=context)


def _graph(
    student: LoadedStudent,
    sample: Tensor,
    file: Path,
    form: str,
    data: LoadedData | None,
    *,
    with_normalization: bool,
) -> tuple[Exported, Compute]:
    """Writes what other programs run; returns with it what it computes from pixels in [0, 1]."""
    normalize = deepcopy(student.normalize)  # stays here where a check measures the student on a GPU

    def prepare(pixels: Tensor) -> Tensor:
        return pixels if with_normalization else normalize(pixels)

    network = student if with_normalization else student.model
    images = prepare(sample)
    with replacing_file(file) as temporary:
        with _quiet():
            if form == QUANTIZED and data is not None:
                write_onnx(network, images, temporary)
                compute = quantize(temporary, temporary, map(prepare, _calibration(data)))
            else:
                compute = _WRITERS[form](network, images, temporary)
        error = difference(compute, network, images)
        _require_equal(error, form)
    made = Exported((file,), form, with_normalization, error, len(images))
    return made, lambda pixels: compute(prepare(pixels))


def _calibration(data: LoadedData) -> Iterator[Tensor]:
    images = data.part("train").balanced(CALIBRATION)
    fit = choose_fit(images.size, data.image_size)
    for batch in evaluation_batches(
        images, fit=fit, batch_size=_CALIBRATION_BATCH, device="cpu", substitute=True
    ):
        yield batch.x


def _robustbench(
    student: LoadedStudent, sample: Tensor, run: FinishedRun, files: tuple[Path, ...]
) -> tuple[Exported, Compute]:
    module, *_ = files
    with replacing_files(module.parent) as folder:
        write_adapter(student, run, folder / module.name)
        # What was written a moment ago is this package's own text.
        adapter: dict[str, Any] = runpy.run_path(str(folder / module.name))
        compute: Compute = adapter["load_model"]()
        error = difference(compute, student, sample)
        _require_equal(error, "robustbench")
    return Exported(files, "robustbench", True, error, len(sample)), compute


def sample_of(run: FinishedRun) -> Tensor:
    """Returns the test images that a run keeps for its report, pixels in [0, 1], ``(N, C, H, W)``.

    Raises:
        UserError: It keeps none, or other ones than its student takes.
    """
    gallery = run.gallery()
    if gallery is None:
        raise UserError(
            "There is no test image to compare the exported network on.",
            received=run.folder,
            allowed="the folder of a finished run, which holds gallery.safetensors",
        )
    return gallery.x


@torch.no_grad()
def difference(compute: Compute, network: nn.Module, images: Tensor) -> float:
    """Returns max |computed − network's| / max |network's| over all images at once and over one alone."""
    errors: list[Tensor] = []
    for batch in (images, images[:1]):
        expected = network(batch)
        errors.append((compute(batch) - expected).abs().max() / expected.abs().max())
    return float(torch.stack(errors).max())  # not a number where one of them is not


def _require_equal(error: float, form: str) -> None:
    """Refuses an export that computes something else.

    Raises:
        UserError: The error is above ``EXPORT_TOLERANCE`` or not a number; of a quantized network, whose
            logits do differ, only the latter.
    """
    if not error <= (sys.float_info.max if form == QUANTIZED else EXPORT_TOLERANCE):
        raise UserError(
            f"Nothing was exported: as {form} the network would not compute what the student does.",
            received=f"relative difference of the logits {error:.2g}",
            allowed=f"at most {EXPORT_TOLERANCE:g}",
        )


def _torch_export(network: nn.Module, images: Tensor, file: Path) -> Compute:
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, file)
    loaded: Compute = torch.export.load(file).module()
    return loaded


_WRITERS: dict[str, Callable[[nn.Module, Tensor, Path], Compute]] = {
    "onnx": write_onnx,
    "torch-export": _torch_export,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' notes about themselves from the user."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))  # onnxruntime speaks through the root logger
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
