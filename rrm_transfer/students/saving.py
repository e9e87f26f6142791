"""Writing a student as a folder that stock timm loads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_folder
from rrm_transfer.core.stems import MARKED_PREFIX, MARKED_WEIGHTS, STOCK_WEIGHTS
from rrm_transfer.students.folder import CONFIG
from rrm_transfer.students.student import Student

FOLD_TOLERANCE = 1e-5
"""Largest difference between folded and trained logits, relative to the largest trained logit, in float32."""


def fold_error(student: Student, folded: nn.Module, sample: Tensor) -> float:
    """Returns max |folded − trained| / max |trained| over the logits of ``sample``, in eval mode and float32.

    Args:
        student: Left as it was.
        folded: Its :meth:`Student.fold`.
        sample: Pixels in [0, 1], ``(B, C, H, W)``.
    """
    training = student.training
    student.eval()
    try:
        with torch.no_grad():
            trained = student(sample).logits
            difference = folded(student.normalize(sample)) - trained
    finally:
        student.train(training)
    return float(difference.abs().max() / trained.abs().max())


def save_student(
    student: Student,
    folder: str | Path,
    *,
    sample: Tensor,
    class_names: Sequence[str] | None = None,
    license: str | None = None,
    rrm: Mapping[str, object] | None = None,
) -> float:
    """Folds a student and writes ``config.json`` and its weights, whole or not at all.

    A stock student is written in timm's own form: ``timm.create_model("local-dir:FOLDER",
    pretrained=True)`` loads it. One with a replaced stem has the tensor shapes of the stock network but
    computes something else, so its architecture's name, file name and keys are such that timm refuses it;
    :func:`rrm_transfer.students.load_student` loads both.

    Args:
        student: Trained, in float32.
        folder: Its files are replaced where they exist; others stay.
        sample: A few images to compare on, pixels in [0, 1], ``(B, C, H, W)``, on the student's device.
        class_names: In the order of the logits, where they are known.
        license: Of the weights.
        rrm: What else to record: teacher, objective, threat model, versions. JSON values only.

    Returns:
        The relative difference between folded and trained logits.

    Raises:
        UserError: The trained weights are not finite, or the folded network would not compute what the
            trained one does.
    """
    folded = student.fold()
    error = fold_error(student, folded, sample)
    if not error <= FOLD_TOLERANCE:
        raise UserError(
            "The student was not exported: folded into a stock network it would not compute what it was "
            "trained to (are its weights finite and in float32?).",
            received=f"relative difference of the logits {error:.2g}",
            allowed=f"at most {FOLD_TOLERANCE:g}",
        )
    statistics = student.normalize.statistics
    channels = len(statistics.mean)
    pretrained_cfg = {
        # everything below describes the weights that the network came from, not these
        **dict.fromkeys(_SOURCE_FIELDS),
        "license": license,
    }
    with replacing_folder(Path(folder), owned=(CONFIG, STOCK_WEIGHTS, MARKED_WEIGHTS)) as temporary:
        folded.cpu().register_state_dict_post_hook(_unshare)  # type: ignore[no-untyped-call]
        save_for_hf(
            folded,
            str(temporary),
            safe_serialization=True,
            model_config={
                "pretrained_cfg": pretrained_cfg,
                "label_names": list(class_names) if class_names else None,
                "rrm": dict(rrm or {}),
            },
            data_config={
                "input_size": (channels, student.image_size, student.image_size),
                "mean": statistics.mean,
                "std": statistics.std,
                "crop_pct": 1.0,
            },
        )
        if student.stock:
            _state_classes_once(temporary)
        else:
            _mark(temporary, student)
    return error


_SOURCE_FIELDS = (
    "tag",
    "origin_url",
    "paper_name",
    "paper_ids",
    "notes",
    "description",
    "label_names",
    "label_descriptions",
)


def _unshare(module: nn.Module, state: dict[str, Tensor], *_: object) -> None:
    """Gives every tensor its own memory: safetensors refuses weights that modules share."""
    for key, tensor in state.items():
        state[key] = tensor.clone(memory_format=torch.contiguous_format)


def _state_classes_once(folder: Path) -> None:
    """Leaves the number of classes at the top of the configuration, where timm reads it.

    timm writes it among the arguments too, and transformers, which loads timm's folders, would pass it twice.
    """
    config: dict[str, dict[str, object]] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["model_args"].pop("num_classes", None)
    (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def _mark(folder: Path, student: Student) -> None:
    weights = load_file(folder / STOCK_WEIGHTS)
    save_file({MARKED_PREFIX + key: tensor for key, tensor in weights.items()}, folder / MARKED_WEIGHTS)
    (folder / STOCK_WEIGHTS).unlink()
    config = cast(dict[str, object], json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    marks = {"architecture": student.architecture, "stem": student.stem}
    config["rrm"] = {**cast(dict[str, object], config["rrm"]), **marks}
    config["architecture"] = (
        f"{student.architecture} with a {student.stem} stem: not a stock timm network, "
        "load it with rrm_transfer.load_student"
    )
    (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
