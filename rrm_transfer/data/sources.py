"""A data set by the name that a user gives it."""

from __future__ import annotations

from pathlib import Path

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.data import fashion_mnist_mini
from rrm_transfer.data.idx import find_idx_parts
from rrm_transfer.data.idx_source import load_fashion_mnist_mini, load_idx_folder
from rrm_transfer.data.images import DataSet
from rrm_transfer.data.parts import SourceParts, assemble

FORMS = (
    f"{fashion_mnist_mini.NAME}, a folder of images by class, a parquet file or folder, an idx folder, "
    "or a Hugging Face data set name (user/name, user/name:config, user/name@revision)"
)


def load_dataset_by_name(
    name: str, *, held_out: float = 0.0, seed: int = 0, train_limit: int | None = None
) -> DataSet:
    """Loads a data set and divides it.

    Args:
        name: ``fashion-mnist-mini``, a local path, or a Hugging Face data set name; a path that exists
            comes before a hub name.
        held_out: Fraction of the training part to cut for selection.
        seed: Of the held-out part and of the limit.
        train_limit: Training images to keep, None for all.

    Raises:
        UserError: There is no such data set, or something is wrong with it.
    """
    return assemble(_find(name), held_out=held_out, seed=seed, train_limit=train_limit)


def _find(name: str) -> SourceParts:
    if name == fashion_mnist_mini.NAME:
        return load_fashion_mnist_mini()
    path = Path(name).expanduser()
    if path.is_dir() and find_idx_parts(path):
        return load_idx_folder(path)
    raise UserError(
        "Unknown data set.", received=name, allowed=FORMS, hint=did_you_mean(name, [fashion_mnist_mini.NAME])
    )
