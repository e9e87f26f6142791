"""Where a teacher's weights lie, and what their source says about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import hub_model
from rrm_transfer.core.pixels import PixelStatistics
from rrm_transfer.core.stems import CIFAR_STEM, MARKED_WEIGHTS, STOCK_WEIGHTS

_LARGEST = 1 << 14
"""Pixels that a side of an image may have, and channels."""

_WEIGHTS = (STOCK_WEIGHTS, MARKED_WEIGHTS, "pytorch_model.bin")


@dataclass(frozen=True)
class Origin:
    """A weights file with the facts that stand beside it; None where the source says nothing.

    Attributes:
        name: What messages and reports call the teacher.
        file: The weights.
        architecture: As `Blueprint` takes it.
        own_code: Whether that is the user's own ``package.module:factory``; no file can say so.
        args: For the architecture's constructor.
        statistics: The normalization.
        image_size: Side in pixels of the images that the network was trained on.
        class_names: In the order of the logits.
        sha256: That the file must have.
        facts: More, for the provenance: the data set, published figures, license, citation.
    """

    name: str
    file: Path
    architecture: str | None = None
    own_code: bool = False
    args: Mapping[str, Any] = field(default_factory=dict)
    statistics: PixelStatistics | None = None
    image_size: int | None = None
    class_names: tuple[str, ...] | None = None
    sha256: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


def folder_origin(folder: Path, *, name: str) -> Origin:
    """Reads a folder that timm's ``save_for_hf`` wrote, or a finished run's.

    Raises:
        UserError: It is neither.
    """
    if not (folder / "config.json").is_file() and (folder / "student").is_dir():
        folder = folder / "student"
    weights = next((folder / file for file in _WEIGHTS if (folder / file).is_file()), None)
    if weights is None or not (folder / "config.json").is_file():
        raise UserError(
            "The folder holds no model.",
            received=folder,
            allowed="a folder with config.json and model.safetensors, or a finished run",
        )
    return described_by(folder / "config.json", name=name, weights=weights)


def hub_origin(repo: str, *, name: str) -> Origin:
    """Fetches a timm repository of the Hugging Face hub: ``user/name`` or ``user/name@revision``.

    Raises:
        UserError: It cannot be reached, or holds no timm model.
    """
    config, weights = hub_model(repo, hint="download it elsewhere and name the folder: local-dir:FOLDER")
    return described_by(config, name=name, weights=weights)


def described_by(config: Path, *, name: str, weights: Path) -> Origin:
    """Reads timm's ``config.json``, in its present form and the older one without ``pretrained_cfg``.

    Raises:
        UserError: It is not such a file.
    """
    try:
        content = parse_json(config.read_text(encoding="utf-8"))
        pretrained = content.get("pretrained_cfg", content)
        size = pretrained.get("input_size")
        args = dict(content.get("model_args", {}))
        args.setdefault("num_classes", content.get("num_classes", pretrained.get("num_classes")))
        if size:
            args.setdefault("in_chans", size[0])
        if args.get("img_size") is not None:
            side = args["img_size"] if isinstance(args["img_size"], int) else args["img_size"][-1]
        else:
            side = size[-1] if size else None
        statistics = (
            PixelStatistics(tuple(pretrained["mean"]), tuple(pretrained["std"]))
            if "mean" in pretrained
            else None
        )
        labels = content.get("label_names") or pretrained.get("label_names")
        if isinstance(labels, dict):  # by the index of the class
            labels = list(labels.values())
        architecture, names = content["architecture"], tuple(labels or ())
        sides = [value for value in (side, args.get("in_chans")) if value is not None]
        counts = [value for value in (args["num_classes"],) if value is not None]
        if not isinstance(architecture, str) or any(type(number) is not int for number in (*sides, *counts)):
            raise TypeError("the architecture is no name, or a size or count no number")
        if any(not 0 < number <= _LARGEST for number in sides) or any(count < 0 for count in counts):
            raise ValueError("a size or count is out of range")
        if isinstance(labels, str) or not all(isinstance(name, str) for name in names):
            raise TypeError("the classes' names are no list of names")
        "".join(names).encode()
        if weights.name == MARKED_WEIGHTS:
            architecture = content["rrm"]["architecture"] + CIFAR_STEM
        return Origin(
            name=name,
            file=weights,
            architecture=architecture,
            args={key: value for key, value in args.items() if value is not None},
            statistics=statistics,
            image_size=side,
            class_names=names or None,
        )
    except (
        LookupError,
        TypeError,
        OverflowError,
        AttributeError,
        ValueError,
    ) as problem:
        raise UserError(
            f"Not a model's config.json: {type(problem).__name__}: {problem}",
            received=config,
            allowed="what timm's save_for_hf writes",
        ) from problem
