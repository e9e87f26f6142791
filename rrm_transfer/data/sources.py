"""A data set by the name that a user gives it."""

from __future__ import annotations

from pathlib import Path

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.data import fashion_mnist_mini
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.folder_source import (
    FolderIndex,
    index_image_folder,
    index_unlabelled_folder,
    load_folder,
)
from rrm_transfer.data.hub_source import load_hub, parse_hub_name
from rrm_transfer.data.idx import find_idx_parts, is_idx
from rrm_transfer.data.idx_source import load_fashion_mnist_mini, load_idx_folder, load_idx_images
from rrm_transfer.data.images import DataSet
from rrm_transfer.data.label_maps import find_label_map, relabel
from rrm_transfer.data.npz_source import load_npz
from rrm_transfer.data.parquet_source import find_parquet_files, load_parquet
from rrm_transfer.data.parts import SourceParts, assemble

FORMS = (
    f"{fashion_mnist_mini.NAME}, a folder of images by class, a parquet file or folder, an idx folder, "
    "an npz file, or a Hugging Face data set name (user/name, user/name:config, user/name@revision)"
)

_SUFFIXES = {".parquet", ".npz"}


def load_dataset_by_name(
    name: str,
    *,
    label_map: str | None = None,
    held_out: float = 0.0,
    seed: int = 0,
    train_limit: int | None = None,
    broken: BrokenImages | None = None,
    index: FolderIndex | None = None,
) -> DataSet:
    """Loads a data set and divides it.

    Args:
        name: ``fashion-mnist-mini``, a local path, or a Hugging Face data set name; a path that exists
            comes before a hub name.
        label_map: Groups the source's classes, such as ``restricted-imagenet``.
        held_out: Fraction of the training part to cut for selection.
        seed: Of the held-out part and of the limit.
        train_limit: Training images to keep, None for all.
        broken: Counts the images that cannot be read; None: none may be broken.
        index: See ``find_parts``.

    Raises:
        UserError: There is no such data set, or something is wrong with it.
    """
    chosen = None if label_map is None else find_label_map(label_map)
    parts = find_parts(name, BrokenImages() if broken is None else broken, index=index)
    if chosen is not None:
        parts = relabel(parts, chosen)
    return assemble(parts, held_out=held_out, seed=seed, train_limit=train_limit)


def find_index(name: str, *, labelled: bool = True) -> FolderIndex | None:
    """Lists the files of a source, where it is a folder of images; for one process, which tells the others.

    Args:
        name: See ``load_dataset_by_name``.
        labelled: See ``find_parts``.

    Returns:
        None for a source of another kind.

    Raises:
        UserError: Something is wrong with the folder.
    """
    path = Path(name).expanduser()
    if name == fashion_mnist_mini.NAME or not path.is_dir() or (not labelled and is_idx(path)):
        return None
    if find_idx_parts(path) or find_parquet_files(path):
        return None
    return _list_images(path, labelled=labelled)


def _list_images(folder: Path, *, labelled: bool) -> FolderIndex:
    return index_image_folder(folder) if labelled else index_unlabelled_folder(folder)


def find_parts(
    name: str, broken: BrokenImages, *, labelled: bool = True, index: FolderIndex | None = None
) -> SourceParts:
    """Finds and reads a source.

    Args:
        name: See ``load_dataset_by_name``.
        broken: Counts the images that cannot be read.
        labelled: Whether classes are wanted; without, they need not be there, and labels mean nothing.
        index: Of ``find_index``, if another process may have made it.

    Raises:
        UserError: There is no such source, or something is wrong with it.
    """
    path = Path(name).expanduser()
    if index is not None:
        return load_folder(path, index, broken)
    if name == fashion_mnist_mini.NAME:
        return load_fashion_mnist_mini()
    if path.is_file() and path.suffix == ".parquet":
        return load_parquet(path, broken, labelled=labelled)
    if path.is_file() and path.suffix == ".npz":
        return load_npz(path, labelled=labelled)
    if not labelled and path.exists() and is_idx(path):
        return load_idx_images(path)
    if path.is_dir():
        if find_idx_parts(path):
            return load_idx_folder(path)
        if find_parquet_files(path):
            return load_parquet(path, broken, labelled=labelled)
        return load_folder(path, _list_images(path, labelled=labelled), broken)
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    candidates = [child.name for child in beside if child.is_dir() or child.suffix in _SUFFIXES]
    hint = did_you_mean(path.name, [fashion_mnist_mini.NAME, *candidates])
    hub_name = parse_hub_name(name)
    if path.exists() or hub_name is None or name.startswith(".") or path.suffix in _SUFFIXES:
        raise UserError("Unknown data set.", received=name, allowed=FORMS, hint=hint)
    return load_hub(hub_name, broken, hint=hint, labelled=labelled)
