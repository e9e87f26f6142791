"""Other forms of an exported student, each compared with the original before it is written."""

from __future__ import annotations

import logging
import runpy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_file, replacing_files, require_writable
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.exports.robustbench import adapter_files, write_adapter
from rrm_transfer.runs.finished import FinishedRun, read_handed_over
from rrm_transfer.students.loading import LoadedStudent, load_student

FORMATS = ("onnx", "torch-export", "robustbench")

EXPORT_TOLERANCE = 1e-4
"""Largest difference from the student's logits, relative to the largest of them, in float32."""

_INPUT, _OUTPUT = "input", "logits"


@dataclass(frozen=True)
class Exported:
    """A student in another form.

    Attributes:
        files: What was written.
        format: Which form.
        normalizes: Whether it takes pixels in [0, 1]; else images that are normalized already.
        error: Largest difference from the student's logits, relative to the largest of them.
        images: Test images that this was measured on.
    """

    files: tuple[Path, ...]
    format: str
    normalizes: bool
    error: float
    images: int


def export(
    run: str | Path,
    file: str | Path,
    *,
    form: str,
    with_normalization: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Writes a run's student in another form, with a batch size that is free.

    Args:
        run: Folder of a finished run, or its ``student-best``.
        file: Where to.
        form: Of ``FORMATS``; ``robustbench`` is a Python module with weights and claim beside it.
        with_normalization: Take pixels in [0, 1] instead of normalized images; ``robustbench`` always does.
        overwrite: Replaces files that stand there.

    Raises:
        UserError: A file would be lost, there is no finished run or no test image of it, a package is
            missing, or what was made does not compute what the student does.
    """
    if form not in FORMATS:
        raise UserError("Unknown format.", received=form, allowed=FORMATS, hint=did_you_mean(form, FORMATS))
    file, finished = Path(file), read_handed_over(Path(run))
    files = adapter_files(file, finished.folder) if form == "robustbench" else (file,)
    require_writable(*files, overwrite=overwrite)
    student, pixels = load_student(finished.network), sample_of(finished)
    if form == "robustbench":
        return _robustbench(student, pixels, finished, files)
    network: nn.Module = student if with_normalization else student.model
    with torch.no_grad():
        images = pixels if with_normalization else student.normalize(pixels)
    with replacing_file(file) as temporary:
        with _quiet():
            compute = _WRITERS[form](network, images, temporary)
        error = difference(compute, network, images)
        _require_equal(error, form)
    return Exported((file,), form, with_normalization, error, len(pixels))


def _robustbench(
    student: LoadedStudent, pixels: Tensor, run: FinishedRun, files: tuple[Path, ...]
) -> Exported:
    module, *_ = files
    with replacing_files(module.parent) as folder:
        write_adapter(student, run, folder / module.name)
        # What was written a moment ago is this package's own text.
        adapter: dict[str, Any] = runpy.run_path(str(folder / module.name))
        error = difference(adapter["load_model"](), student, pixels)
        _require_equal(error, "robustbench")
    return Exported(files, "robustbench", True, error, len(pixels))


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
def difference(compute: Callable[[Tensor], Tensor], network: nn.Module, images: Tensor) -> float:
    """Returns max |computed − network's| / max |network's| over all images at once and over one alone."""
    errors: list[Tensor] = []
    for batch in (images, images[:1]):
        expected = network(batch)
        errors.append((compute(batch) - expected).abs().max() / expected.abs().max())
    return float(torch.stack(errors).max())  # not a number where one of them is not


def _require_equal(error: float, form: str) -> None:
    """Refuses an export that computes something else.

    Raises:
        UserError: The error is above ``EXPORT_TOLERANCE`` or not a number.
    """
    if not error <= EXPORT_TOLERANCE:
        raise UserError(
            f"Nothing was exported: as {form} the network would not compute what the student does.",
            received=f"relative difference of the logits {error:.2g}",
            allowed=f"at most {EXPORT_TOLERANCE:g}",
        )


def _onnx(network: nn.Module, images: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnx  # noqa: F401  # torch.onnx needs it
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as missing:
        raise UserError(
            "ONNX needs packages that are not installed.",
            received=missing.name,
            hint='pip install "rrm-transfer[onnx]"',
        ) from None
    torch.onnx.export(
        network,
        (images,),
        file,
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def compute(batch: Tensor) -> Tensor:
        (logits,) = session.run([_OUTPUT], {_INPUT: batch.numpy()})
        return torch.from_numpy(logits)

    return compute


def _torch_export(network: nn.Module, images: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, file)
    loaded: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    return loaded


_WRITERS: dict[str, Callable[[nn.Module, Tensor, Path], Callable[[Tensor], Tensor]]] = {
    "onnx": _onnx,
    "torch-export": _torch_export,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' notes about themselves from the user."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
