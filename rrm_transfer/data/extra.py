"""Images that are trained on beside the labelled ones, from other sources."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.folder_source import FolderIndex
from rrm_transfer.data.images import DataSet, ImageSet
from rrm_transfer.data.parts import SourceParts, check_labels
from rrm_transfer.data.sources import find_parts


@dataclass(frozen=True)
class Extra:
    """Images that take a share of each batch.

    Attributes:
        sets: Of each source its images to train on; without labels all are of class 0, which nobody reads.
        share: Of each batch.
        labelled: Whether their sources' labels hold.
        description: One line for each source.
    """

    sets: tuple[ImageSet, ...]
    share: float
    labelled: bool = False
    description: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    @property
    def identity(self) -> dict[str, str]:
        """What tells the images from others, by which a resumed run knows that they are the same."""
        digest = hashlib.sha256(" ".join(images.fingerprint for images in self.sets).encode()).hexdigest()
        return {"extra_images": f"{len(self):,}, {digest[:16]}"}


def load_extra(
    names: Sequence[str],
    data: DataSet,
    *,
    share: float,
    labelled: bool,
    broken: BrokenImages,
    indexes: Sequence[FolderIndex | None],
) -> Extra:
    """Loads images to train on beside a data set.

    Args:
        names: Of the sources, as for data sets; classes are not needed, and not read unless ``labelled``.
        data: The labelled images.
        share: Of each batch that the extra images take.
        labelled: Whether their labels are meant; they must then be the data set's classes.
        broken: Counts the images that cannot be read.
        indexes: Of the sources; see ``find_parts``.

    Raises:
        UserError: A source does not exist, is damaged, is the data set itself, has nothing to train on, or
            has other classes.
    """
    sets, lines = [], []
    for name, index in zip(names, indexes, strict=True):
        parts = find_parts(name, broken, labelled=labelled, index=index)
        images = _training_part(parts, data)
        if labelled:
            _require_classes(parts, images, data)
        else:
            images.labels = torch.zeros_like(images.labels)
        sets.append(images)
        lines.append(f"{len(images):,} of {parts.name}, {images.description}{_recoloured(images, data)}")
    return Extra(tuple(sets), share, labelled, tuple(lines))


def _training_part(parts: SourceParts, data: DataSet) -> ImageSet:
    if parts.source == data.source:
        raise UserError(
            "The extra images are those of the data set itself, some of which are to be tested on.",
            received=parts.source,
            hint="name a source of other images",
        )
    images = parts.images.get("train")
    if images is None or not len(images):
        raise UserError("The source holds no images to train on.", received=parts.source)
    return images


def _require_classes(parts: SourceParts, images: ImageSet, data: DataSet) -> None:
    names = parts.class_names
    if names is not None and data.class_names is not None and names != data.class_names:
        raise UserError(
            "The classes of the extra images are not those of the data set.",
            received=f"{parts.source}: {', '.join(names[:10])}",
            allowed=", ".join(data.class_names[:10]) + (", …" if len(data.class_names) > 10 else ""),
            hint="--set data.extra_labels=none uses the images without their classes",
        )
    check_labels(images.labels, data.num_classes, parts.source)


def _recoloured(images: ImageSet, data: DataSet) -> str:
    if images.channels == data.channels:
        return ""
    return ", made grey" if data.channels == 1 else ", made colour"
