"""Tables with a column of encoded images and, for images with classes, one of class indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.decoding import EncodedPart, image_sets
from rrm_transfer.data.encoded import ColumnImages
from rrm_transfer.data.images import ImageSet
from rrm_transfer.data.parts import choose_parts

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "fine_label", "target", "class")


class Columns(NamedTuple):
    """The two columns that count.

    Attributes:
        image: Its name.
        label: Its name; None where labels are not wanted.
        class_names: In the order of the class indices, None where the table does not tell.
    """

    image: str
    label: str | None
    class_names: tuple[str, ...] | None


def find_columns(features: datasets.Features, *, where: str, labelled: bool = True) -> Columns:
    """Finds an image column and a column of class indices by their types, then by their names.

    Args:
        features: The table's.
        where: Names the table in messages.
        labelled: Whether a column of class indices is wanted.

    Raises:
        UserError: There is none, or there are several and no customary name decides.
    """
    import datasets

    listing = ", ".join(f"{name} ({_type_name(feature)})" for name, feature in features.items())

    def choose(kind: str, candidates: Iterable[str], customary: tuple[str, ...]) -> str:
        found = list(candidates)
        preferred = [name for name in customary if name in found]
        if len(found) != 1 and not preferred:
            raise UserError(
                f"{where} has {'several columns' if found else 'no column'} that could hold the {kind}.",
                received=f"columns: {listing}",
                allowed=f"one {kind} column, or one of them called {' or '.join(customary)}",
            )
        return found[0] if len(found) == 1 else preferred[0]

    image = choose("image", (n for n, f in features.items() if _holds_images(f)), IMAGE_NAMES)
    if not labelled:
        return Columns(image, None, None)
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    integers = [name for name, feature in features.items() if _type_name(feature).startswith(("int", "uint"))]
    label = choose("class label", classes or integers, LABEL_NAMES)
    names = features[label].names if classes else None
    return Columns(image, label, tuple(names) if names else None)


def table_image_sets(
    tables: Mapping[str, tuple[pa.Table, str]],
    columns: Columns,
    broken: BrokenImages,
    *,
    where: str,
    roots: Sequence[Path],
) -> tuple[dict[str, ImageSet], tuple[str, ...]]:
    """Makes the image sets to train and test on.

    Args:
        tables: By part, each with its identity.
        columns: Where image and label are.
        broken: Counts the images that cannot be read.
        where: Names the source in messages.
        roots: Folders of the files that the tables may name.

    Returns:
        ``train`` and ``test``, as far as they exist; and notes.

    Raises:
        UserError: A label is missing, or too many images are missing or broken.
    """
    labels = {
        part: torch.zeros(len(table), dtype=torch.int64)
        if columns.label is None
        else _read_labels(table.column(columns.label), f"the {part} part of {where}")
        for part, (table, _) in tables.items()
    }
    chosen, notes = choose_parts(labels)
    encoded = {}
    for role, part in chosen.items():
        table, identity = tables[part]
        images = ColumnImages(
            table.column(columns.image), origin=f"the {part} part of {where}", identity=identity, roots=roots
        )
        encoded[role] = EncodedPart(images, labels[part])
    return image_sets(encoded, broken), notes


def _read_labels(column: pa.ChunkedArray[Any], where: str) -> Tensor:
    if column.null_count:
        missing = column.is_null().to_numpy().nonzero()[0]
        raise UserError(
            f"{len(missing):,} labels are missing in {where}.", received=f"first at position {missing[0]:,}"
        )
    return torch.from_numpy(column.to_numpy().astype("int64"))


def _holds_images(feature: Any) -> bool:
    import datasets

    if isinstance(feature, dict):
        return "bytes" in feature
    return isinstance(feature, datasets.Image) or _type_name(feature) in {"binary", "large_binary"}


def _type_name(feature: Any) -> str:
    if isinstance(feature, dict):
        return "struct"
    return str(getattr(feature, "dtype", type(feature).__name__))
